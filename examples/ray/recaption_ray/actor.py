"""The actor: a `WorkerProcess` whose methods Ray calls. It runs with several threads, so that polls, requests and stops do not
wait for each other; none of its methods takes longer than a poll."""

from __future__ import annotations

import os
import socket

from .process import WorkerProcess, WorkerSpec

# A poll that waits, one that was given up by the driver, a send, a stop.
THREADS = 4


class WorkerActor:
    """Owns one worker process. Never restarted: the driver makes another."""

    def __init__(self, spec: WorkerSpec):
        self._host = socket.gethostname()
        self._process = WorkerProcess(spec)

    def poll(self, acknowledged: int, seconds: float) -> dict:
        """Returns where this is and the events after `acknowledged`."""
        import ray

        events = self._process.poll(acknowledged, seconds)
        return {"host": self._host, "node": ray.get_runtime_context().get_node_id(), "actor_pid": os.getpid(),
                "pid": self._process.pid or 0, "events": events}

    def send(self, first: int, lines: list[bytes]) -> int:
        """As `WorkerProcess.send`."""
        return self._process.send(first, lines)

    def close(self) -> None:
        """As `WorkerProcess.close`."""
        self._process.close()

    def stop(self) -> None:
        """As `WorkerProcess.stop`."""
        self._process.stop()
