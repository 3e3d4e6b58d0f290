"""What deaths and answers mean for shards."""

import unittest

from recaption_ray.scheduler import MAX_HOST_PAUSE, MAX_RECORD_ATTEMPTS, End, Limits, Outcome, Scheduler


def answer(request, outcome, **more):
    return {"type": "shard", "id": request.number, "shard": request.shard.url, "outcome": outcome, **more}


def failed(request, kind, attempts=1):
    return answer(request, "failed", error={"class": kind, "message": "why", "attempts": attempts})


def urls(requests):
    return [request.shard.url for request in requests]


class Answers(unittest.TestCase):
    def setUp(self):
        self.scheduler = Scheduler(["a", "b", "c"], Limits(max_attempts=3, retry_pause=30))
        self.scheduler.worker_ready("w", "node", 2)

    def test_a_worker_holds_as_many_as_it_asked_for(self):
        requests = self.scheduler.requests_for("w", 0)
        self.assertEqual(urls(requests), ["a", "b"])
        self.assertEqual(self.scheduler.requests_for("w", 0), [])
        self.scheduler.answer("w", answer(requests[1], "committed"), 1)
        self.assertEqual(urls(self.scheduler.requests_for("w", 1)), ["c"])

    def test_workers_that_are_not_ready_get_nothing(self):
        self.assertEqual(self.scheduler.requests_for("other", 0), [])

    def test_transient_failures_are_retried_after_the_others_and_a_growing_pause(self):
        a, b = self.scheduler.requests_for("w", 0)
        self.scheduler.answer("w", failed(a, "transient"), 10)
        self.scheduler.answer("w", answer(b, "committed"), 10)
        (c,) = self.scheduler.requests_for("w", 39)
        self.assertEqual(c.shard.url, "c")
        (again,) = self.scheduler.requests_for("w", 40)
        self.scheduler.answer("w", failed(again, "transient"), 50)
        self.assertEqual(self.scheduler.requests_for("w", 109), [])
        (last,) = self.scheduler.requests_for("w", 110)
        result = self.scheduler.answer("w", failed(last, "transient"), 120)
        self.assertEqual((result.outcome, result.attempts, result.permanent), (Outcome.FAILED, 3, False))

    def test_permanent_failures_are_not_retried(self):
        a, b = self.scheduler.requests_for("w", 0)
        self.assertFalse(self.scheduler.answer("w", failed(a, "permanent"), 0).permanent, "it failed for the first time")
        self.assertTrue(self.scheduler.answer("w", failed(b, "permanent", attempts=2), 0).permanent)

    def test_claimed_shards_go_to_the_end_and_are_then_waited_for(self):
        a, b = self.scheduler.requests_for("w", 0)
        self.assertFalse(a.wait)
        self.assertIsNone(self.scheduler.answer("w", answer(a, "claimed"), 0))
        (c,) = self.scheduler.requests_for("w", 0)
        self.assertEqual(c.shard.url, "c")
        self.scheduler.answer("w", failed(b, "transient"), 0)
        self.assertEqual(self.scheduler.requests_for("w", 1), [], "b will be tried again first")
        self.scheduler.answer("w", answer(c, "committed"), 2)
        b, a = self.scheduler.requests_for("w", 31)
        self.scheduler.answer("w", answer(b, "committed"), 31)
        self.assertEqual((b.wait, a.shard.url, a.wait), (False, "a", True))
        self.assertEqual(self.scheduler.answer("w", answer(a, "done_by_other"), 40).outcome, Outcome.DONE)
        self.assertTrue(self.scheduler.is_finished())

    def test_answers_of_workers_taken_for_lost_are_ignored(self):
        a, _ = self.scheduler.requests_for("w", 0)
        self.scheduler.worker_ended("w", End.LOST)
        self.assertIsNone(self.scheduler.answer("w", answer(a, "committed"), 0))
        self.assertEqual(self.scheduler.remaining, 3)

    def test_unknown_outcomes_fail_the_shard(self):
        a, _ = self.scheduler.requests_for("w", 0)
        self.assertEqual(self.scheduler.answer("w", answer(a, "eaten"), 0).outcome, Outcome.FAILED)

    def test_a_request_that_the_worker_cannot_read_fails_its_shard(self):
        a, b = self.scheduler.requests_for("w", 0)
        self.scheduler.answer("w", answer(a, "committed"), 0)
        (c,) = self.scheduler.requests_for("w", 0)
        result = self.scheduler.invalid("w", 3, "too long", 0)
        self.assertEqual((result.shard, result.outcome), ("c", Outcome.FAILED))
        self.assertIn("too long", result.error)
        self.assertIsNone(self.scheduler.invalid("w", 1, "answered before", 0))
        self.assertEqual(self.scheduler.held_by("w"), [b])


class Deaths(unittest.TestCase):
    def scheduler(self, shards, **limits):
        scheduler = Scheduler(shards, Limits(**limits))
        return scheduler

    def crash(self, scheduler, worker, host="node", in_flight=2, end=End.CRASHED):
        """A worker that takes what it can and dies."""
        scheduler.worker_ready(worker, host, in_flight)
        taken = urls(scheduler.requests_for(worker, 0))
        scheduler.worker_ended(worker, end, "killed")
        return taken

    def test_suspects_are_given_alone(self):
        scheduler = self.scheduler(["a", "b", "c"])
        self.assertEqual(self.crash(scheduler, 1), ["a", "b"])
        scheduler.worker_ready(2, "node", 2)
        (a,) = scheduler.requests_for(2, 0)
        self.assertEqual(a.shard.url, "a")
        self.assertEqual(scheduler.requests_for(2, 0), [], "nothing beside a suspect")
        scheduler.answer(2, answer(a, "committed"), 0)
        self.assertEqual(urls(scheduler.requests_for(2, 0)), ["b"])

    def test_a_busy_worker_gets_no_suspect(self):
        scheduler = self.scheduler(["a", "b", "c", "d"])
        scheduler.worker_ready("busy", "node", 3)
        scheduler.worker_ready("dies", "node", 1)
        (a,) = scheduler.requests_for("dies", 0)
        held = scheduler.requests_for("busy", 0)
        scheduler.worker_ended("dies", End.CRASHED)
        scheduler.answer("busy", answer(held[0], "committed"), 0)
        self.assertEqual(scheduler.requests_for("busy", 0), [])
        for request in held[1:]:
            scheduler.answer("busy", answer(request, "committed"), 0)
        self.assertEqual(urls(scheduler.requests_for("busy", 0)), ["a"])

    def test_the_shard_that_kills_is_given_up_and_its_neighbour_is_not(self):
        scheduler = self.scheduler(["bad", "good"], max_attempts=3)
        self.assertEqual(self.crash(scheduler, 1), ["bad", "good"])
        self.assertEqual(self.crash(scheduler, 2), ["bad"])
        scheduler.worker_ready(3, "node", 2)
        (good,) = scheduler.requests_for(3, 0)
        self.assertEqual(good.shard.url, "good")
        scheduler.answer(3, answer(good, "committed"), 0)
        self.assertEqual(urls(scheduler.requests_for(3, 0)), ["bad"])
        scheduler.worker_ended(3, End.CRASHED, "killed")
        scheduler.worker_ready(4, "node", 2)
        (record,) = scheduler.requests_for(4, 0)
        self.assertTrue(record.give_up)
        self.assertIn(b'"give_up": "its worker process died 3 times, at last alone with it: killed"', record.line())
        result = scheduler.answer(4, answer(record, "given_up"), 0)
        self.assertEqual((result.shard, result.outcome, result.attempts, result.permanent), ("bad", Outcome.GIVEN_UP, 3, True))

    def test_neighbours_are_never_given_up_for_a_death_that_may_not_be_theirs(self):
        scheduler = self.scheduler(["a", "b"], max_attempts=1)
        self.crash(scheduler, 1)
        scheduler.worker_ready(2, "node", 2)
        (a,) = scheduler.requests_for(2, 0)
        self.assertFalse(a.give_up)

    def test_a_lost_node_puts_its_shards_back_in_front(self):
        scheduler = self.scheduler(["a", "b", "c", "d"])
        self.assertEqual(self.crash(scheduler, 1, end=End.LOST), ["a", "b"])
        scheduler.worker_ready(2, "node", 4)
        self.assertEqual(sorted(urls(scheduler.requests_for(2, 0))), ["a", "b", "c", "d"])

    def test_a_shard_that_loses_nodes_is_isolated_and_given_up_late(self):
        scheduler = self.scheduler(["bad", "good"], max_losses=4)
        for worker in range(2):
            self.assertEqual(len(self.crash(scheduler, worker, end=End.LOST)), 2)
        self.assertEqual(self.crash(scheduler, 2, end=End.LOST), ["good"])
        for worker in (3, 4):
            scheduler.worker_ready(worker, "node", 2)
            (bad,) = scheduler.requests_for(worker, 0)
            self.assertEqual(bad.shard.url, "bad")
            scheduler.worker_ended(worker, End.LOST, "node gone")
            if worker == 3:
                scheduler.worker_ready("g", "node", 2)
                (good,) = scheduler.requests_for("g", 0)
                scheduler.answer("g", answer(good, "committed"), 0)
                scheduler.worker_ended("g", End.ENDED)
        scheduler.worker_ready(5, "node", 2)
        (record,) = scheduler.requests_for(5, 0)
        self.assertTrue(record.give_up)
        self.assertIn("lost 4 times: node gone", record.shard.reason)

    def test_a_suspect_goes_to_another_host_if_there_is_one(self):
        scheduler = self.scheduler(["bad", "b"])
        self.crash(scheduler, 1, host="here", in_flight=1)
        scheduler.worker_ready(2, "here", 1)
        self.assertEqual(urls(scheduler.requests_for(2, 0)), ["bad"], "no other host is there")
        scheduler.worker_ended(2, End.CRASHED)
        scheduler.worker_ready(3, "here", 1)
        scheduler.worker_ready(4, "there", 1)
        self.assertEqual(urls(scheduler.requests_for(3, 0)), ["b"])
        self.assertEqual(urls(scheduler.requests_for(4, 0)), ["bad"])

    def test_a_host_whose_workers_wait_for_claimed_shards_is_no_other_host(self):
        scheduler = self.scheduler(["claimed", "bad"])
        scheduler.worker_ready(1, "there", 1)
        (claimed,) = scheduler.requests_for(1, 0)
        scheduler.worker_ready(2, "here", 1)
        (bad,) = scheduler.requests_for(2, 0)
        scheduler.answer(1, answer(claimed, "claimed"), 0)
        (waiting,) = scheduler.requests_for(1, 0)
        self.assertTrue(waiting.wait)
        scheduler.worker_ended(2, End.CRASHED)
        scheduler.worker_ready(3, "here", 1)
        self.assertEqual(urls(scheduler.requests_for(3, 1)), ["bad"])

    def test_a_suspect_waits_for_another_host_a_few_minutes(self):
        scheduler = self.scheduler(["busy", "bad"])
        scheduler.worker_ready(1, "there", 1)
        scheduler.requests_for(1, 0)
        self.crash(scheduler, 2, host="here", in_flight=1)
        scheduler.worker_ready(3, "here", 1)
        self.assertEqual(scheduler.requests_for(3, 1000), [], "there may take it soon")
        self.assertEqual(scheduler.requests_for(3, 1000 + MAX_HOST_PAUSE - 1), [])
        self.assertEqual(urls(scheduler.requests_for(3, 1000 + MAX_HOST_PAUSE)), ["bad"])
        scheduler.worker_ended(3, End.CRASHED)
        scheduler.worker_ready(4, "here", 1)
        self.assertEqual(scheduler.requests_for(4, 2000), [], "the next wait begins anew")

    def test_stopped_shards_go_back_to_the_queue(self):
        scheduler = self.scheduler(["a"])
        scheduler.worker_ready(1, "node", 2)
        (a,) = scheduler.requests_for(1, 0)
        self.assertIsNone(scheduler.answer(1, answer(a, "stopped"), 0))
        scheduler.worker_ended(1, End.ENDED)
        scheduler.worker_ready(2, "node", 2)
        self.assertEqual(urls(scheduler.requests_for(2, 0)), ["a"])

    def test_a_record_that_cannot_be_written_does_not_hold_the_run(self):
        scheduler = self.scheduler(["bad"], max_attempts=1)
        self.crash(scheduler, 0)
        for attempt in range(MAX_RECORD_ATTEMPTS):
            scheduler.worker_ready(attempt + 1, "node", 2)
            (record,) = scheduler.requests_for(attempt + 1, 0)
            self.assertTrue(record.give_up)
            results = scheduler.worker_ended(attempt + 1, End.CRASHED)
        self.assertEqual([r.outcome for r in results], [Outcome.GIVEN_UP])
        self.assertIn("no worker could record that", results[0].error)
        self.assertTrue(scheduler.is_finished())

    def test_recording_beside_a_shard_makes_neither_a_suspect_of_the_other(self):
        scheduler = self.scheduler(["bad", "good"], max_attempts=1)
        self.crash(scheduler, 0, in_flight=1)
        scheduler.worker_ready(1, "node", 2)
        record, good = scheduler.requests_for(1, 0)
        self.assertEqual((record.give_up, good.give_up), (True, False))
        scheduler.worker_ended(1, End.CRASHED)
        scheduler.worker_ready(2, "node", 2)
        self.assertTrue(all(request.give_up for request in scheduler.requests_for(2, 0)), "good was alone")


if __name__ == "__main__":
    unittest.main()
