"""The loop of a run: starts workers while work is left, gives them shards once they are ready, and notices when they die.

Nothing here waits without a limit: the cluster returns events after at most a fraction of a second, and everything that should
happen has a time by which it must.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from .events import Event, Exited, Lost, Message, Placed, describe_exit
from .protocol import ProtocolError, check_ready, redact
from .report import ExitCode, Report
from .scheduler import End, Scheduler, ShardResult

# Seconds for which the driver waits for events before it looks at the clock.
TICK = 0.25
MAX_START_PAUSE = 60.0


class Cluster(Protocol):
    """Where workers run."""

    def capacity(self) -> int:
        """How many workers all nodes that are alive have room for, whatever else runs there."""

    def start(self, worker: int) -> None:
        """Asks for a worker. `Placed` follows when there is room for it, or `Lost`."""

    def send(self, worker: int, lines: list[bytes]) -> None:
        """Sends requests to its process."""

    def close(self, worker: int) -> None:
        """Ends its process's standard input: it finishes what it has and ends."""

    def stop(self, worker: int) -> None:
        """Sends SIGTERM to its process."""

    def kill(self, worker: int) -> None:
        """Removes it at once. No event follows."""

    def events(self, timeout: float) -> list[Event]:
        """Returns what happened, after at most `timeout` seconds."""


@dataclass(frozen=True)
class Options:
    """Settings of the driver. Times are in seconds; 0 is no limit."""

    # Most workers at a time; None: as many as the nodes have room for.
    workers: int | None = None
    # Starts in a row that may fail, with no worker ready and no shard ended, before the run ends.
    max_start_failures: int = 5
    # From the start of the actor until the process is ready.
    start_timeout: float = 1800.0
    # Without any actor on any node.
    capacity_timeout: float = 600.0
    # Without an answer of a worker that has shards.
    shard_timeout: float = 0.0
    # For workers to finish their shards after a first signal.
    grace: float = 0.0
    # For workers to write their records after their last shard.
    close_timeout: float = 60.0


class State(Enum):
    """Where a worker is in its life."""

    PENDING = "pending"
    STARTING = "starting"
    READY = "ready"


@dataclass
class Worker:
    """A worker that is alive as far as is known."""

    number: int
    created: float
    state: State = State.PENDING
    changed: float = 0.0
    heard: float = 0.0
    node: str = ""
    name: str = ""
    fatal: dict = field(default_factory=dict)


class Driver:
    """One run."""

    def __init__(self, scheduler: Scheduler, cluster: Cluster, options: Options, report: Report,
                 log: Callable[[str], None] = lambda line: None, clock: Callable[[], float] = time.monotonic):
        self.scheduler, self.cluster, self.options, self.report = scheduler, cluster, options, report
        self.log, self.clock = log, clock
        self.workers: dict[int, Worker] = {}
        self._numbers = 0
        # Workers in a row that ended and did nothing: reset by a shard's result.
        self._start_failures = 0
        self._first_failure = 0.0
        # Doublings of the pause before the next start: reset by a worker that becomes ready.
        self._pauses = 0
        self._next_start = 0.0
        self._last_alive = clock()
        self._stop_requests = 0

    def request_stop(self) -> None:
        """Stops gracefully; a second call stops at once. May be called by a signal handler."""
        self._stop_requests += 1

    def run(self, on_tick: Callable[[Driver], None] = lambda driver: None) -> ExitCode:
        """Runs until every shard has ended, a signal, or an error that ends the run. Returns the exit code."""
        try:
            while not (self.scheduler.is_finished() or self._stop_requests or self.report.fatal):
                self._step()
                on_tick(self)
            self._wind_down(on_tick)
        finally:
            for worker in list(self.workers):
                self.cluster.kill(worker)
        self.report.interrupted = self._stop_requests > 0
        self.report.shards_incomplete = self.scheduler.remaining
        return self.report.exit_code()

    def count(self, state: State) -> int:
        """Workers in a state."""
        return sum(worker.state is state for worker in self.workers.values())

    def _step(self) -> None:
        for event in self.cluster.events(TICK):
            self._handle(event)
        if self.report.fatal:
            return
        now = self.clock()
        self._check_times(now)
        self._start_workers(now)
        for worker in self.workers.values():
            if worker.state is State.READY and (requests := self.scheduler.requests_for(worker.number, now)):
                if len(requests) == len(self.scheduler.held_by(worker.number)):
                    # It was idle; its silence begins now.
                    worker.heard = now
                self.cluster.send(worker.number, [request.line() for request in requests])

    def _start_workers(self, now: float) -> None:
        room = self.cluster.capacity() if self.options.workers is None else self.options.workers
        wanted = min(room, self.scheduler.remaining) - len(self.workers)
        while wanted > 0 and now >= self._next_start:
            wanted -= 1
            self._numbers += 1
            self.workers[self._numbers] = Worker(self._numbers, now, changed=now)
            self.cluster.start(self._numbers)

    def _handle(self, event: Event) -> None:
        worker = self.workers.get(event.worker)
        if worker is None:
            return
        now = self.clock()
        match event:
            case Placed():
                worker.state, worker.changed, worker.node = State.STARTING, now, event.node
                worker.name = f"worker {worker.number} ({event.host}, process {event.pid})"
            case Message():
                self._message(worker, event.message, now)
            case Exited() if worker.fatal:
                self._ended(worker, End.ENDED, str(worker.fatal.get("error", "unknown")))
            case Exited() if event.code == ExitCode.USAGE and worker.state is not State.READY:
                self.report.fail("configuration", f"{worker.name}: {describe_exit(event)}")
                self._ended(worker, End.ENDED, describe_exit(event))
            case Exited() if event.code == 0:
                self._ended(worker, End.ENDED, describe_exit(event))
            case Exited():
                self._ended(worker, End.CRASHED, describe_exit(event))
            case Lost():
                self._ended(worker, End.LOST, event.reason, blame=not event.node_died)

    def _message(self, worker: Worker, message: dict, now: float) -> None:
        worker.heard = now
        match message["type"]:
            case "ready":
                try:
                    in_flight = check_ready(message)
                except ProtocolError as error:
                    self.report.fail("configuration", str(error))
                    return
                worker.state, worker.changed, self._pauses = State.READY, now, 0
                self.report.worker_ready(message)
                self.log(f"{worker.name} is ready on {message.get('provider', 'an unknown provider')}")
                self.scheduler.worker_ready(worker.number, worker.node, in_flight)
            case "shard":
                if result := self.scheduler.answer(worker.number, message, now):
                    self._result(result)
            case "fatal":
                worker.fatal = message
                if message.get("class") == "configuration":
                    self.report.fail("configuration", f"{worker.name}: {message.get('error')}")
            case "invalid":
                if result := self.scheduler.invalid(worker.number, message.get("line"), str(message.get("error")), now):
                    self._result(result)

    def _result(self, result: ShardResult) -> None:
        self._start_failures = 0
        self.report.add(result)
        if result.error:
            self.log(f"{result.outcome.value}: {redact(result.shard)}: {result.error}")

    def _ended(self, worker: Worker, end: End, reason: str, blame: bool = True) -> None:
        """Takes note that a worker is gone. `blame`: whether that counts as a failed start where it did nothing."""
        held = [redact(request.shard.url) for request in self.scheduler.held_by(worker.number)]
        name = worker.name or f"worker {worker.number}"
        self.log(f"{name} ended: {reason}" + (f"; it held {', '.join(held)}" if held else ""))
        del self.workers[worker.number]
        self.cluster.kill(worker.number)
        self.report.worker_ended(end)
        for result in self.scheduler.worker_ended(worker.number, end, reason):
            self._result(result)
        # A crash that a shard may have caused is bounded by that shard's attempts.
        if not blame or (held and end is End.CRASHED):
            return
        if not self._start_failures:
            self._first_failure = self.clock()
        self._start_failures += 1
        self._pauses += 1
        self._next_start = self.clock() + min(2.0 ** (self._pauses - 1), MAX_START_PAUSE)
        if self._start_failures >= self.options.max_start_failures and not self._may_become_ready():
            self.report.fail("failed", f"{self._start_failures} workers in a row ended before any shard did; the last: "
                                       f"{name}: {reason}")

    def _may_become_ready(self) -> bool:
        """Whether a worker is ready, or is starting since before starts began to fail."""
        return any(worker.state is State.READY or (worker.state is State.STARTING and worker.created <= self._first_failure)
                   for worker in self.workers.values())

    def _check_times(self, now: float) -> None:
        limits = self.options
        for worker in list(self.workers.values()):
            if worker.state is State.STARTING and 0 < limits.start_timeout < now - worker.changed:
                self._ended(worker, End.LOST, f"not ready after {limits.start_timeout:.0f} s")
            elif worker.state is State.READY and 0 < limits.shard_timeout < now - worker.heard:
                held = self.scheduler.held_by(worker.number)
                if held and not any(request.wait for request in held):
                    self._ended(worker, End.CRASHED, f"no answer for {limits.shard_timeout:.0f} s")
        if any(worker.state is not State.PENDING for worker in self.workers.values()) or now < self._next_start:
            self._last_alive = now
        elif 0 < limits.capacity_timeout < now - self._last_alive:
            self.report.fail("failed", f"no node had room for a worker for {limits.capacity_timeout:.0f} s")

    def _wind_down(self, on_tick: Callable[[Driver], None]) -> None:
        """Lets ready workers end by themselves: with their records written, or with their shards finished after a signal."""
        stopping = not self.scheduler.is_finished()
        graceful = not self.report.fatal or self._stop_requests
        for worker in list(self.workers.values()):
            if worker.state is not State.READY or not graceful:
                self.cluster.stop(worker.number) if worker.state is State.READY else self._drop(worker)
            elif stopping:
                self.cluster.stop(worker.number)
            else:
                self.cluster.close(worker.number)
        first_signals, begun = self._stop_requests, self.clock()
        limit = self.options.grace if stopping and self._stop_requests else self.options.close_timeout
        while self.workers and self._stop_requests <= max(first_signals, 1):
            if 0 < limit < self.clock() - begun:
                self.log(f"{len(self.workers)} workers did not end in {limit:.0f} s; they are killed")
                break
            for event in self.cluster.events(TICK):
                self._wind_down_event(event)
            on_tick(self)

    def _wind_down_event(self, event: Event) -> None:
        worker = self.workers.get(event.worker)
        if worker and isinstance(event, Message) and event.message["type"] == "shard":
            if result := self.scheduler.answer(worker.number, event.message, self.clock()):
                self._result(result)
        elif worker and isinstance(event, Exited | Lost):
            self._drop(worker)

    def _drop(self, worker: Worker) -> None:
        del self.workers[worker.number]
        self.cluster.kill(worker.number)
