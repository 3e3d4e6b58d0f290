"""Decides which worker gets which shard, and what a death or an answer means for the shards. Knows neither Ray nor processes nor
the clock: times are passed in, in seconds, so that tests can invent them.

A shard is in exactly one place: the queue, the suspects, the retries, the claimed ones, those to give up, or in flight at one
worker. It leaves as exactly one result.

- A worker holds at most as many shards as it asked for.
- When a worker process dies, any shard that it held may have killed it. They become suspects: each is given alone to a worker,
  one that holds nothing else. Only a shard that is alone when a process dies is given up, after `max_attempts` deaths, so that
  no shard is given up for what its neighbour did.
- A lost actor or node says little about its shards: they go back to the front of the queue, become suspects the second time,
  and are given up only after `max_losses`.
- Transient failures are retried after a pause, behind all shards that were not tried yet. Permanent ones are not retried.
- A shard that another worker of the output has claimed goes to the end; when nothing else is left, it is waited for.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from enum import Enum

from . import protocol

# How often the record of a given-up shard is tried, each time at another worker, before it is reported without one.
MAX_RECORD_ATTEMPTS = 3
MAX_RETRY_PAUSE = 600.0
# Seconds for which a suspect is kept from idle workers on a host where it killed a process, for a worker on another.
MAX_HOST_PAUSE = 300.0


@dataclass(frozen=True)
class Limits:
    """When to stop trying."""

    # Deaths of a worker process, and failures of the transient class, that a shard may have.
    max_attempts: int = 3
    # Losses of an actor or a node while it held the shard.
    max_losses: int = 10
    # Seconds before the first retry of a transient failure; doubled for each further one.
    retry_pause: float = 30.0


class End(Enum):
    """How a worker ended."""

    # Its process died: the shards that it held are suspects.
    CRASHED = "crashed"
    # Its actor or node is gone.
    LOST = "lost"
    # It ended for a reason of its own: it was stopped, or reported a fatal error.
    ENDED = "ended"


class Outcome(Enum):
    """How a shard ended."""

    DONE = "done"
    FAILED = "failed"
    GIVEN_UP = "given_up"


@dataclass
class Shard:
    """What is known about a shard that was tried and has not ended."""

    url: str
    crashes: int = 0
    losses: int = 0
    failures: int = 0
    record_attempts: int = 0
    is_suspect: bool = False
    reason: str = ""
    crashed_on: set[str] = field(default_factory=set)
    # When it was first kept from a worker on one of these.
    kept_since: float | None = None

    @property
    def attempts(self) -> int:
        """How often it killed, lost or failed."""
        return self.crashes + self.losses + self.failures


@dataclass(frozen=True)
class Request:
    """One line for a worker."""

    number: int
    shard: Shard
    wait: bool = False
    give_up: bool = False

    def line(self) -> bytes:
        """The request as the worker reads it."""
        if self.give_up:
            return protocol.give_up_request(self.number, self.shard.url, self.shard.reason, self.shard.attempts)
        return protocol.shard_request(self.number, self.shard.url, self.wait)


@dataclass(frozen=True)
class ShardResult:
    """The end of a shard."""

    shard: str
    outcome: Outcome
    # The worker's answer; empty if the shard was given up without one.
    answer: dict
    # Why it failed or was given up.
    error: str = ""
    # Whether it failed the same way before, or was given up: `recaption run`'s exit code 4.
    permanent: bool = False
    attempts: int = 1


@dataclass
class _Worker:
    host: str
    in_flight: int
    requests: dict[int, Request] = field(default_factory=dict)
    # Lines sent, and the numbers of the requests that they held and that have no answer yet.
    sent: int = 0
    lines: dict[int, int] = field(default_factory=dict)

    @property
    def holds_suspect(self) -> bool:
        return any(r.shard.is_suspect and not r.give_up for r in self.requests.values())

    @property
    def waits(self) -> bool:
        return any(r.wait for r in self.requests.values())


class Scheduler:
    """The shards of one run and the workers that are ready for them."""

    def __init__(self, shards: Iterable[str], limits: Limits | None = None):
        self.limits = limits or Limits()
        self._queue: deque[str | Shard] = deque(shards)
        self._suspects: deque[Shard] = deque()
        self._retries: list[tuple[float, int, Shard]] = []
        self._claimed: deque[Shard] = deque()
        self._give_ups: deque[Shard] = deque()
        self._workers: dict[Hashable, _Worker] = {}
        self._number = 0
        self.total = len(self._queue)
        self.ended = 0

    @property
    def remaining(self) -> int:
        """Shards that have not ended."""
        return self.total - self.ended

    @property
    def in_flight(self) -> int:
        """Requests that wait for an answer."""
        return sum(len(worker.requests) for worker in self._workers.values())

    def is_finished(self) -> bool:
        """Whether every shard has ended."""
        return self.remaining == 0

    def held_by(self, worker: Hashable) -> list[Request]:
        """Requests that wait for this worker's answer."""
        return list(self._workers[worker].requests.values()) if worker in self._workers else []

    def worker_ready(self, worker: Hashable, host: str, in_flight: int) -> None:
        """Adds a worker that printed its ready line and wants to hold `in_flight` shards."""
        self._workers[worker] = _Worker(host, in_flight)

    def requests_for(self, worker: Hashable, now: float) -> list[Request]:
        """Takes what this worker should be sent now."""
        state, requests = self._workers.get(worker), []
        while state and (request := self._next(state, now)):
            state.requests[request.number] = request
            state.sent += 1
            state.lines[state.sent] = request.number
            requests.append(request)
        return requests

    def answer(self, worker: Hashable, answer: dict, now: float) -> ShardResult | None:
        """Takes a worker's answer; returns the result if the shard has ended with it.

        Answers of workers that were taken for lost, and to unknown requests, are ignored: their shards are elsewhere.
        """
        state = self._workers.get(worker)
        request = state.requests.pop(answer.get("id"), None) if state else None
        if request is None:
            return None
        state.lines = {line: number for line, number in state.lines.items() if number != request.number}
        shard, outcome = request.shard, answer.get("outcome")
        if request.give_up:
            if outcome in protocol.DONE or outcome == "given_up":
                return self._end(shard, Outcome.DONE if outcome in protocol.DONE else Outcome.GIVEN_UP, answer)
            return self._record_again(shard, answer)
        if outcome in protocol.DONE:
            return self._end(shard, Outcome.DONE, answer)
        if outcome == "claimed":
            # After wait=true no worker answers this; if one does, it is not asked again at once.
            self._retry(shard, now + self.limits.retry_pause) if request.wait else self._claimed.append(shard)
            return None
        if outcome == "stopped":
            return self._return(request, End.ENDED, alone=not state.requests)
        error = answer.get("error") if isinstance(answer.get("error"), dict) else {}
        if outcome != "failed":
            error = {"class": "permanent", "message": f"the worker answered {outcome!r}, which this driver does not know"}
        shard.failures += 1
        shard.reason = str(error.get("message", "unknown"))
        if error.get("class") == "transient" and shard.failures < self.limits.max_attempts:
            self._retry(shard, now + min(self.limits.retry_pause * 2 ** (shard.failures - 1), MAX_RETRY_PAUSE))
            return None
        return self._end(shard, Outcome.FAILED, answer)

    def invalid(self, worker: Hashable, line: object, error: str, now: float) -> ShardResult | None:
        """Takes a worker's word that its n-th line is no request: that shard fails."""
        state = self._workers.get(worker)
        number = state.lines.get(line) if state else None
        message = f"the worker could not read the request: {error}"
        answer = {"id": number, "outcome": "failed", "error": {"class": "permanent", "message": message}}
        return self.answer(worker, answer, now)

    def worker_ended(self, worker: Hashable, end: End, reason: str = "") -> list[ShardResult]:
        """Removes a worker and puts back what it held; returns the results of shards that are given up without a record."""
        state = self._workers.pop(worker, None)
        if state is None:
            return []
        results = []
        alone = sum(not request.give_up for request in state.requests.values()) == 1
        for request in state.requests.values():
            if request.give_up:
                results.append(self._record_again(request.shard, {}))
                continue
            request.shard.reason = reason
            if end is End.CRASHED:
                request.shard.crashed_on.add(state.host)
            self._return(request, end, alone)
        return [result for result in results if result]

    def next_retry(self) -> float | None:
        """When the next retry is due."""
        return self._retries[0][0] if self._retries else None

    def _next(self, state: _Worker, now: float) -> Request | None:
        if len(state.requests) >= state.in_flight or state.holds_suspect:
            return None
        if self._give_ups:
            return self._request(self._give_ups.popleft(), give_up=True)
        if not state.requests and (suspect := self._take_suspect(state, now)):
            return self._request(suspect)
        if self._queue:
            entry = self._queue.popleft()
            return self._request(Shard(entry) if isinstance(entry, str) else entry)
        if self._retries and self._retries[0][0] <= now and self._fits(self._retries[0][2], state):
            return self._request(heapq.heappop(self._retries)[2])
        if not self._suspects and not self._retries and self._claimed:
            return self._next_claimed(state)
        return None

    def _next_claimed(self, state: _Worker) -> Request | None:
        for shard in self._claimed:
            if self._fits(shard, state):
                self._claimed.remove(shard)
                return self._request(shard, wait=True)
        return None

    @staticmethod
    def _fits(shard: Shard, state: _Worker) -> bool:
        return not (shard.is_suspect and state.requests)

    def _take_suspect(self, state: _Worker, now: float) -> Shard | None:
        """A suspect that did not kill a process on this host, unless no other host is there or none took it for a while. A
        worker that waits for a claimed shard may do so for hours, and takes no suspect meanwhile."""
        hosts = {worker.host for worker in self._workers.values() if not worker.waits}
        for suspect in self._suspects:
            if state.host not in suspect.crashed_on or hosts <= suspect.crashed_on or self._was_kept(suspect, now):
                self._suspects.remove(suspect)
                suspect.kept_since = None
                return suspect
        return None

    @staticmethod
    def _was_kept(suspect: Shard, now: float) -> bool:
        """Whether a suspect was kept for another host for long enough; the first call begins that."""
        if suspect.kept_since is None:
            suspect.kept_since = now
        return now - suspect.kept_since >= MAX_HOST_PAUSE

    def _request(self, shard: Shard, wait: bool = False, give_up: bool = False) -> Request:
        self._number += 1
        return Request(self._number, shard, wait, give_up)

    def _retry(self, shard: Shard, due: float) -> None:
        self._number += 1
        heapq.heappush(self._retries, (due, self._number, shard))

    def _return(self, request: Request, end: End, alone: bool) -> None:
        shard = request.shard
        if end is End.CRASHED:
            shard.crashes += 1
            shard.is_suspect = True
        else:
            shard.losses += 1
            shard.is_suspect |= shard.losses > 1
        if alone and shard.crashes >= self.limits.max_attempts:
            shard.reason = f"its worker process died {shard.crashes} times, at last alone with it: {shard.reason}"
            self._give_ups.append(shard)
        elif alone and shard.losses >= self.limits.max_losses:
            shard.reason = f"its worker was lost {shard.losses} times: {shard.reason}"
            self._give_ups.append(shard)
        elif shard.is_suspect:
            self._suspects.append(shard)
        else:
            self._queue.appendleft(shard)

    def _record_again(self, shard: Shard, answer: dict) -> ShardResult | None:
        shard.record_attempts += 1
        if shard.record_attempts < MAX_RECORD_ATTEMPTS:
            self._give_ups.append(shard)
            return None
        shard.reason += " (and no worker could record that)"
        return self._end(shard, Outcome.GIVEN_UP, answer)

    def _end(self, shard: Shard, outcome: Outcome, answer: dict) -> ShardResult:
        self.ended += 1
        if outcome is Outcome.DONE:
            return ShardResult(shard.url, outcome, answer, attempts=shard.attempts + 1)
        if outcome is Outcome.GIVEN_UP:
            return ShardResult(shard.url, outcome, answer, shard.reason, True, shard.attempts)
        error = answer.get("error") if isinstance(answer.get("error"), dict) else {}
        runs = error.get("attempts", 1)
        permanent = error.get("class") != "transient" and isinstance(runs, int) and runs > 1
        return ShardResult(shard.url, outcome, answer, shard.reason, permanent, shard.attempts)
