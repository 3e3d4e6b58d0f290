"""Whole runs over a simulated cluster."""

import random
import unittest

from recaption_ray.driver import Options
from recaption_ray.report import ExitCode
from recaption_ray.scheduler import Limits, Outcome
from tests.simulation import Behaviour, Run


def shards(count, **special):
    behaviours = {f"s{n}": Behaviour() for n in range(count)}
    return behaviours | {name: Behaviour(**what) for name, what in special.items()}


class Runs(unittest.TestCase):
    def test_all_shards_are_done_once(self):
        run = Run(shards(40))
        self.assertEqual(run.run(), ExitCode.DONE)
        self.assertEqual(sorted(run.cluster.done), sorted(run.results))
        self.assertEqual(run.report.read, 40)

    def test_a_shard_that_kills_costs_itself_alone(self):
        run = Run(shards(39, bad={"kills": True}))
        self.assertEqual(run.run(), ExitCode.PERMANENT)
        self.assertEqual(run.cluster.given_up, {"bad": 3})
        self.assertEqual(run.cluster.crashes, {"bad": 3})
        self.assertEqual(len(run.cluster.done), 39)

    def test_many_shards_that_kill_cost_no_neighbour(self):
        killers = {f"bad{n}": {"kills": True} for n in range(12)}
        run = Run(shards(60, **killers), in_flight=4)
        run.run()
        self.assertEqual(sorted(run.cluster.given_up), sorted(killers))
        self.assertEqual(len(run.cluster.done), 60)
        self.assertLessEqual(max(run.cluster.crashes.values()), 3)

    def test_a_lost_node_costs_nothing(self):
        run = Run(shards(40))
        run.cluster.at(15, lambda: run.cluster.remove_node(0))
        self.assertEqual(run.run(), ExitCode.DONE)
        self.assertTrue(any("node has died" in line for line in run.lines))

    def test_all_nodes_may_leave_and_others_join(self):
        run = Run(shards(40), options=Options(capacity_timeout=600))
        run.cluster.at(15, lambda: (run.cluster.remove_node(0), run.cluster.remove_node(1)))
        run.cluster.at(400, lambda: run.cluster.add_node(7))
        self.assertEqual(run.run(), ExitCode.DONE)

    def test_a_late_node_gets_workers(self):
        run = Run(shards(60), nodes=1, slots=1)
        run.cluster.at(20, lambda: run.cluster.add_node(7))
        run.run()
        self.assertEqual({worker.node for worker in run.cluster.workers.values()}, {0, 7})

    def test_without_capacity_the_run_ends(self):
        run = Run(shards(3), nodes=0, options=Options(capacity_timeout=600))
        self.assertEqual(run.run(2_000), ExitCode.FAILED)
        self.assertIn("no node had room", run.report.fatal[1])

    def test_lost_capacity_ends_the_run_too(self):
        run = Run(shards(400), options=Options(workers=4))
        run.cluster.at(15, lambda: (run.cluster.remove_node(0), run.cluster.remove_node(1)))
        self.assertEqual(run.run(5_000), ExitCode.FAILED)
        self.assertGreater(run.report.shards_incomplete, 0)

    def test_no_more_workers_than_asked_for_or_than_shards(self):
        run = Run(shards(20), options=Options(workers=1))
        run.run()
        self.assertEqual(len(run.cluster.workers), 1)
        few = Run(shards(2))
        few.run()
        self.assertEqual(len(few.cluster.workers), 2)

    def test_configuration_errors_end_the_run_at_once(self):
        run = Run(shards(10))
        run.cluster.start_failures = [{"class": "configuration", "error": "no model there"}] * 100
        self.assertEqual(run.run(60), ExitCode.USAGE)
        self.assertIn("no model there", run.report.fatal[1])

    def test_arguments_that_the_program_refuses_end_the_run_at_once(self):
        run = Run(shards(10))
        run.cluster._load = lambda worker: run.cluster._end(worker, 2)
        self.assertEqual(run.run(60), ExitCode.USAGE)

    def test_starts_that_keep_failing_end_the_run_with_the_reason(self):
        run = Run(shards(10))
        run.cluster.start_failures = [{"class": "permanent", "error": "no CUDA"}] * 100
        self.assertEqual(run.run(1_000), ExitCode.FAILED)
        self.assertIn("no CUDA", run.report.fatal[1])

    def test_some_failing_starts_do_not_end_the_run(self):
        run = Run(shards(40))
        run.cluster.start_failures = [{"class": "permanent", "error": "no CUDA"}] * 3 + [None]
        self.assertEqual(run.run(), ExitCode.DONE)

    def test_failing_starts_beside_a_worker_that_works_do_not_end_the_run(self):
        run = Run({name: Behaviour(claimed_until=300.0) for name in "ab"})
        run.cluster.start_failures = [None] + ["exit"] * 30
        self.assertEqual(run.run(), ExitCode.DONE)
        self.assertGreater(len(run.cluster.workers), 7, "they failed more often than a run may without a ready worker")

    def test_a_hung_worker_is_replaced(self):
        run = Run(shards(10, slow={"hangs": 1}), options=Options(shard_timeout=100))
        self.assertEqual(run.run(5_000), ExitCode.DONE)

    def test_transient_failures_pass(self):
        run = Run(shards(10, flaky={"transient_failures": 2}))
        self.assertEqual(run.run(), ExitCode.DONE)
        self.assertEqual(run.cluster.behaviours["flaky"].tries, 3)

    def test_failures_that_stay_end_with_code_3(self):
        for what in ({"transient_failures": 99}, {"permanent": True}):
            with self.subTest(what):
                self.assertEqual(Run(shards(5, bad=what)).run(), ExitCode.INCOMPLETE)

    def test_claimed_shards_are_waited_for_at_the_end(self):
        run = Run(shards(10, theirs={"claimed_until": 500.0}))
        self.assertEqual(run.run(), ExitCode.DONE)
        self.assertEqual(run.report.shards_done_by_others, 1)

    def test_a_stop_lets_workers_answer_and_ends_with_code_1(self):
        run = Run(shards(100))
        run.cluster.at(20, run.driver.request_stop)
        self.assertEqual(run.run(100), ExitCode.FAILED)
        self.assertTrue(run.report.interrupted)
        self.assertEqual(run.report.shards_incomplete, 100 - len(run.results))
        self.assertEqual(len(run.cluster.done), len(run.results))

    def test_workers_that_do_not_stop_are_killed_after_the_grace(self):
        run = Run(shards(100), options=Options(grace=30))
        run.cluster.stop = lambda worker: None
        run.cluster.at(20, run.driver.request_stop)
        self.assertEqual(run.run(200), ExitCode.FAILED)

    def test_a_second_signal_stops_at_once(self):
        run = Run(shards(100))
        run.cluster.stop = lambda worker: None
        run.cluster.at(20, run.driver.request_stop)
        run.cluster.at(25, run.driver.request_stop)
        self.assertEqual(run.run(30), ExitCode.FAILED)


class Reports(unittest.TestCase):
    def test_secrets_of_urls_are_not_shown(self):
        secret = "https://u:word@host/a.tar?sig=secret#part=3"
        run = Run({secret: Behaviour(permanent=True)})
        run.run()
        shown = f"{run.lines} {run.report.to_text()} {run.report.to_json()}"
        self.assertIn("https://host/a.tar#part=3", shown)
        self.assertNotIn("word", shown)
        self.assertNotIn("secret", shown)


class RandomRuns(unittest.TestCase):
    """Whatever happens, each shard ends exactly once and as it should; `Run` and the cluster check the rest at every step."""

    def test_random_runs(self):
        for seed in range(150):
            with self.subTest(seed=seed):
                self.one(seed)

    def one(self, seed):
        rng = random.Random(seed)
        behaviours = {}
        for number in range(rng.randint(1, 60)):
            kind = rng.choices(["ok", "kills", "flaky", "permanent", "claimed"], [20, 1, 2, 1, 2])[0]
            behaviours[f"{kind}{number}"] = Behaviour(
                kills=kind == "kills", transient_failures=rng.randint(1, 2) if kind == "flaky" else 0,
                permanent=kind == "permanent", claimed_until=rng.uniform(0, 300) if kind == "claimed" else 0.0)
        nodes = rng.randint(1, 4)
        limits = Limits(max_attempts=5, max_losses=100, retry_pause=5)
        run = Run(behaviours, seed, limits, Options(workers=rng.choice([None, 2, 8]), max_start_failures=50),
                  nodes=nodes, slots=rng.randint(1, 3), in_flight=rng.randint(1, 5))
        cluster = run.cluster
        cluster.start_failures = [rng.random() < 0.1 and "exit" for _ in range(100)]
        # At most three: with one death in the company of a shard that kills, fewer than the attempts that a shard has.
        for _ in range(rng.randint(0, 3)):
            cluster.at(rng.uniform(0, 100), cluster.kill_process)
        for _ in range(rng.randint(0, 4)):
            node = rng.randrange(nodes)
            lost = rng.uniform(0, 100)
            cluster.at(lost, lambda n=node: cluster.remove_node(n))
            cluster.at(lost + rng.uniform(1, 100), lambda n=node: cluster.add_node(n))
        code = run.run()
        self.assertIsNone(run.report.fatal)
        self.assertEqual(sorted(run.results), sorted(behaviours), "nothing is lost")
        expected = {"kills": Outcome.GIVEN_UP, "permanent": Outcome.FAILED}
        for name, result in run.results.items():
            self.assertEqual(result.outcome, expected.get(name.rstrip("0123456789"), Outcome.DONE), name)
        self.assertTrue(all(count <= limits.max_attempts for count in cluster.crashes.values()), cluster.crashes)
        failed = any(name.startswith("permanent") for name in behaviours)
        killed = any(name.startswith("kills") for name in behaviours)
        self.assertEqual(code, ExitCode.INCOMPLETE if failed else ExitCode.PERMANENT if killed else ExitCode.DONE)


if __name__ == "__main__":
    unittest.main()
