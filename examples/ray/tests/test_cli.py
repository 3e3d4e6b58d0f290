"""What surrounds the loop: settings, `recaption finalize`, the exit code. The loop itself is replaced, so Ray is not needed."""

import argparse
import contextlib
import io
import json
import os
import tempfile
import unittest
from pathlib import Path
from unittest import mock

from recaption_ray import cli
from recaption_ray.report import ExitCode
from recaption_ray.settings import for_finalize, sets_threads, split_selection

FAKE = str(Path(__file__).with_name("fake_recaption.py"))
URL = "s3://bucket/captions"


class Settings(unittest.TestCase):
    def test_finalize_gets_them_in_its_own_terms(self):
        for given, expected in [
            (["--output", URL], [URL]),
            ([f"--output={URL}"], [URL]),
            (["--input", "a/*.tar", "--input=b=c.tar"], ["--input", "a/*.tar", "--input", "b=c.tar"]),
            (["--set", "caption.beams=4", "--set=run.seed=2"], ["--set", "caption.beams=4", "--set", "run.seed=2"]),
            (["--model", "models/coca"], ["--set", 'model.captioner="models/coca"']),
            (["--scorer=clip"], ["--set", 'model.scorer="clip"']),
            (["--provider", "cuda", "--device=0"], ["--set", 'model.provider="cuda"', "--set", 'model.device="0"']),
            (["--min-similarity", "-0.5", "--batch-size=8"], ["--set", "filter.min_similarity=-0.5", "--set", "run.batch_size=8"]),
            (["--threads", "4"], ["--set", "run.threads=4"]),
            (["--metrics-addr=:9", "--metrics-file", 'a"\\'],
             ["--set", 'run.metrics_addr=":9"', "--set", 'run.metrics_file="a\\"\\\\"']),
            (["--log-level", "warn"], ["--log-level", "warn"]),
        ]:
            self.assertEqual(for_finalize(given), expected, given)

    def test_a_flag_wins_over_set_wherever_it_stands(self):
        settings = for_finalize(["--threads=4", "--set", "run.threads=2"])
        self.assertEqual(settings, ["--set", "run.threads=2", "--set", "run.threads=4"])

    def test_flags_that_choose_shards_are_told_apart(self):
        given = ["--sample", "0.5", "--set", "--since", "--since=7d", "--output", URL]
        self.assertEqual(split_selection(given), (["--sample", "0.5", "--since=7d"], ["--set", "--since", "--output", URL]))

    def test_a_number_of_threads_is_noticed(self):
        for given in (["--threads", "4"], ["--threads=4"], ["--set", "run.threads=4"], ["--set=run.threads=4"],
                      ["--set", "run.threads = 4"]):
            self.assertTrue(sets_threads(given), given)
        for given in ([], ["--input", "run.threads=4"], ["--set", "run.threads_more=4"], ["--set", "caption.prompt=--threads"]):
            self.assertFalse(sets_threads(given), given)


class Finalize(unittest.TestCase):
    def run_with(self, *settings, ends="0", done=ExitCode.DONE, arguments=()):
        """A run without shards, or with ones that ended as `done`; the exit code, the report, and finalize's arguments."""
        with tempfile.TemporaryDirectory() as folder:
            config, journal = Path(folder, "job.toml"), Path(folder, "journal")
            config.write_text("" if done is ExitCode.DONE else "shard")
            environment = {"FAKE_FINALIZE_ENDS": ends, "FAKE_FINALIZE_JOURNAL": str(journal)}
            output = io.StringIO()
            with mock.patch.dict(os.environ, environment), mock.patch.object(cli, "drive", self.drive(done)), \
                    contextlib.redirect_stdout(output):
                code = cli.main([str(config), "--binary", FAKE, "--format", "json", *arguments, "--", *settings])
            seen = json.loads(journal.read_text()) if journal.exists() else None
        report = json.loads(output.getvalue())
        self.assertEqual(report["exit_code"], code, "the report has the code of the process")
        return int(code), report, seen

    @staticmethod
    def drive(done):
        """A loop that ends with this code."""
        def drive(args, settings, shards, report, progress):
            report.failed, report.permanent = 1, int(done is ExitCode.PERMANENT)
            report.shards_incomplete = int(done is ExitCode.FAILED)
        return drive

    def test_it_takes_all_settings_of_a_run(self):
        code, _, seen = self.run_with("--output", URL, "--input=a.tar", "--set", "run.seed=2", "--threads", "4", "--model=coca")
        self.assertEqual(code, ExitCode.DONE)
        self.assertEqual((seen["output"], seen["input"]), (URL, ["a.tar"]))
        self.assertEqual(seen["set"], ["run.seed=2", "run.threads=4", 'model.captioner="coca"'])

    def test_the_fake_refuses_what_finalize_refuses(self):
        self.assertEqual(self.run_with("--overwrite")[0], ExitCode.USAGE)

    def test_the_worse_code_counts(self):
        for ends, done, expected in [("3", ExitCode.DONE, 3), ("0", ExitCode.INCOMPLETE, 3), ("4", ExitCode.INCOMPLETE, 3),
                                     ("3", ExitCode.PERMANENT, 3), ("1", ExitCode.INCOMPLETE, 1), ("4", ExitCode.DONE, 4)]:
            code, report, seen = self.run_with(ends=ends, done=done)
            self.assertEqual((code, report["finalize_exit_code"]), (expected, int(ends)))
            self.assertIsNotNone(seen)

    def test_a_finalize_that_was_killed_has_failed(self):
        for ends in ("kill", "101"):
            self.assertEqual(self.run_with(ends=ends)[0], ExitCode.FAILED, ends)
            self.assertEqual(self.run_with(ends=ends, done=ExitCode.PERMANENT)[0], ExitCode.FAILED, ends)

    def test_what_a_selection_left_out_is_not_missing(self):
        for ends, expected in (("3", 0), ("4", 0), ("1", 1), ("kill", 1)):
            code, _, seen = self.run_with("--sample=0.5", "--output", URL, ends=ends)
            self.assertEqual((code, seen["output"]), (expected, URL))

    def test_it_is_left_out_after_a_failed_run_and_on_request(self):
        code, report, seen = self.run_with(done=ExitCode.FAILED)
        self.assertEqual((code, report["finalize_exit_code"], seen), (ExitCode.FAILED, None, None))
        self.assertIsNone(self.run_with(arguments=["--no-finalize"])[2])


class Threads(unittest.TestCase):
    def command(self, *settings, gpus=0.0):
        with tempfile.NamedTemporaryFile() as config:
            args = argparse.Namespace(config=Path(config.name), gpus_per_worker=gpus, cpus_per_worker=8.0, binary="recaption")
            return cli.worker_specs(args, list(settings))(1).command

    def test_cpus_are_threads_unless_they_are_set(self):
        self.assertEqual(self.command(), ["recaption", "worker", "--threads", "8"])
        self.assertEqual(self.command(gpus=1.0), ["recaption", "worker"])
        self.assertEqual(self.command("--set=run.threads=4"), ["recaption", "worker", "--set=run.threads=4"])


if __name__ == "__main__":
    unittest.main()
