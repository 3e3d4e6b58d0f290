"""The process of a worker and its pipes, with a program that only speaks the protocol."""

import contextlib
import io
import os
import signal
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path

from recaption_ray.process import WorkerProcess, WorkerSpec
from recaption_ray.protocol import give_up_request, shard_request

FAKE = str(Path(__file__).with_name("fake_recaption.py"))


class Processes(unittest.TestCase):
    def start(self, config=b"good", command=None, **more):
        self.stderr = io.StringIO()
        redirected = contextlib.redirect_stderr(self.stderr)
        redirected.__enter__()
        self.addCleanup(redirected.__exit__, None, None, None)
        spec = WorkerSpec(command or [FAKE, "worker"], "job.toml", config, label="worker 1", **more)
        self.process, self.seen = WorkerProcess(spec), 0
        self.addCleanup(self.process.stop)
        return self.process

    def next(self, seconds=20):
        """The next event."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for number, event in self.process.poll(self.seen, 0.5):
                self.seen = number
                return event
        self.fail(f"no event in {seconds} s; log: {self.stderr.getvalue()}")

    def test_it_answers_and_ends_with_its_input(self):
        process = self.start()
        self.assertEqual(self.next()["type"], "ready")
        process.send(1, [shard_request(1, "a", False), give_up_request(2, "b", "why", 3)])
        self.assertEqual([self.next()["outcome"], self.next()["outcome"]], ["committed", "given_up"])
        process.close()
        self.assertEqual(self.next(), {"type": "exit", "code": 0, "detail": "loading / end of input"})
        self.assertIn("[worker 1] end of input", self.stderr.getvalue())

    def test_events_stay_until_they_are_acknowledged(self):
        process = self.start()
        first = process.poll(0, 20)
        self.assertEqual(process.poll(0, 20), first)
        self.assertEqual(process.poll(first[0][0], 0.05), [])

    def test_requests_that_come_twice_are_taken_once(self):
        process = self.start()
        self.next()
        lines = [shard_request(1, "a", False), shard_request(2, "b", False)]
        self.assertEqual(process.send(1, lines), 2)
        self.assertEqual(process.send(1, [*lines, shard_request(3, "c", False)]), 3)
        self.assertEqual([self.next()["shard"] for _ in range(3)], ["a", "b", "c"])
        self.assertEqual(process.poll(self.seen, 0.2), [])

    def test_a_death_tells_the_signal_and_the_end_of_the_log(self):
        process = self.start()
        self.next()
        process.send(1, [shard_request(1, "kill", False)])
        self.assertEqual(self.next(), {"type": "exit", "code": -signal.SIGKILL, "detail": "loading / about to die"})

    def test_stop_is_sigterm(self):
        process = self.start()
        self.next()
        process.stop()
        self.assertEqual(self.next()["code"], 1)

    def test_a_program_that_is_not_there_is_an_event(self):
        self.start(command=["/no/such/program", "worker"])
        event = self.next()
        self.assertEqual((event["type"], event["code"]), ("exit", None))
        self.assertIn("/no/such/program", event["detail"])

    def test_a_line_that_is_no_message_ends_the_process(self):
        self.start(b"noise")
        event = self.next()
        self.assertEqual(event["code"], -signal.SIGKILL)
        self.assertIn("this is no JSON", event["detail"])

    def test_fatal_errors_come_before_the_end(self):
        self.start(b"bad")
        self.assertEqual(self.next()["class"], "configuration")
        self.assertEqual(self.next()["code"], 2)

    def test_arguments_directory_and_session(self):
        with tempfile.TemporaryDirectory() as directory:
            self.start(command=[FAKE, "worker", "--threads", "3"], directory=directory)
            ready = self.next()
            self.assertEqual((ready["threads"], ready["cwd"]), (["--threads", "3"], os.path.realpath(directory)))
            self.assertEqual(ready["session"], ready["pid"], "Ctrl-C in a terminal does not reach it")

    def test_the_configuration_is_gone_once_it_was_read(self):
        with tempfile.TemporaryDirectory() as directory:
            tempfile.tempdir, before = directory, tempfile.tempdir
            try:
                self.start(b"secret")
                self.next()
                self.assertEqual(os.listdir(directory), [])
            finally:
                tempfile.tempdir = before

    def test_a_child_that_keeps_the_pipes_open_does_not_hide_the_end(self):
        process = self.start()
        self.next()
        process.send(1, [shard_request(1, "child-kill", False)])
        self.assertEqual(self.next(10)["code"], -signal.SIGKILL)

    @unittest.skipUnless(sys.platform == "linux", "PR_SET_PDEATHSIG")
    def test_it_survives_the_thread_that_asked_for_it(self):
        def create():
            self.start()
            # The signal is asked for by now.
            self.next()

        creator = threading.Thread(target=create)
        creator.start()
        creator.join()
        time.sleep(0.2)
        self.process.send(1, [shard_request(1, "a", False)])
        self.assertEqual(self.next()["outcome"], "committed")


if __name__ == "__main__":
    unittest.main()
