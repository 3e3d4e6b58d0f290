"""A cluster that is simulated event by event, with a clock of its own: shards that kill, fail, or are claimed; processes,
actors and nodes that die; nodes that come and go. It checks at every send what may never happen."""

from __future__ import annotations

import heapq
import json
import random
from dataclasses import dataclass, field

from recaption_ray.driver import Driver, Options
from recaption_ray.events import Exited, Lost, Message, Placed
from recaption_ray.report import Report
from recaption_ray.scheduler import Limits, Scheduler


@dataclass
class Behaviour:
    """What happens when a worker processes a shard."""

    kills: bool = False
    transient_failures: int = 0
    permanent: bool = False
    claimed_until: float = 0.0
    hangs: int = 0
    tries: int = 0


@dataclass
class SimulatedWorker:
    node: int | None = None
    ready: bool = False
    dead: bool = False
    closed: bool = False
    held: dict[int, dict] = field(default_factory=dict)
    busy_until: float = 0.0


class SimulatedCluster:
    """`driver.Cluster`, simulated."""

    def __init__(self, seed: int, behaviours: dict[str, Behaviour], nodes: int = 2, slots: int = 2, in_flight: int = 3):
        self.random = random.Random(seed)
        self.now = 0.0
        self.behaviours, self.slots, self.in_flight = behaviours, slots, in_flight
        self.nodes = {number: slots for number in range(nodes)}
        self.workers: dict[int, SimulatedWorker] = {}
        self.done: list[str] = []
        self.given_up: dict[str, int] = {}
        self.crashes: dict[str, int] = {}
        self._due: list = []
        self._count = 0
        self._events: list = []
        self.start_failures: list = []
        self.scheduler: Scheduler | None = None

    def at(self, seconds: float, action) -> None:
        self._count += 1
        heapq.heappush(self._due, (self.now + seconds, self._count, action))

    # driver.Cluster

    def capacity(self) -> int:
        return sum(self.nodes.values())

    def start(self, worker: int) -> None:
        assert worker not in self.workers, "numbers are not used twice"
        self.workers[worker] = SimulatedWorker()
        self.at(1, self._place)

    def send(self, worker: int, lines: list[bytes]) -> None:
        state = self.workers[worker]
        assert state.ready, "a worker that is not ready was sent a shard"
        if state.dead:
            return
        for line in lines:
            request = json.loads(line)
            state.held[request["id"]] = request
            assert len(state.held) <= self.in_flight, "more than in_flight"
            if "give_up" in request:
                self.at(0.1, lambda w=worker, r=request: self._record(w, r))
                continue
            self._check_isolation(worker)
            state.busy_until = max(state.busy_until, self.now) + self.random.uniform(1, 5)
            self.at(state.busy_until - self.now, lambda w=worker, r=request: self._process(w, r))

    def close(self, worker: int) -> None:
        self._end(worker, 0)

    def stop(self, worker: int) -> None:
        state = self.workers[worker]
        for request in list(state.held.values()):
            self._answer(worker, request, "stopped")
        self._end(worker, 1 if state.held else 0)

    def kill(self, worker: int) -> None:
        self.workers[worker].dead = True

    def events(self, timeout: float) -> list:
        if not self._events:
            end = self.now + timeout
            while self._due and self._due[0][0] <= end and not self._events:
                self.now, _, action = heapq.heappop(self._due)
                action()
            if not self._events:
                self.now = end
        events, self._events = self._events, []
        return events

    # What happens to it

    def kill_process(self, worker: int | None = None) -> None:
        """Kills a process that has shards."""
        busy = [number for number, state in self.workers.items() if state.held and not state.dead]
        if busy:
            self._end(worker if worker is not None else self.random.choice(busy), -9)

    def remove_node(self, node: int) -> None:
        if node not in self.nodes:
            return
        del self.nodes[node]
        for number, state in self.workers.items():
            if state.node == node and not state.dead:
                state.dead = True
                self._events.append(Lost(number, "The actor died because its node has died.", node_died=True))

    def add_node(self, node: int) -> None:
        self.nodes[node] = self.slots

    # How workers behave

    def _place(self) -> None:
        for number, state in self.workers.items():
            if state.node is not None or state.dead:
                continue
            used = [other.node for other in self.workers.values() if not other.dead]
            free = [node for node, slots in self.nodes.items() if used.count(node) < slots]
            if not free:
                self.at(1, self._place)
                return
            state.node = self.random.choice(free)
            self._events.append(Placed(number, str(state.node), f"node{state.node}", number))
            self.at(self.random.uniform(0.5, 3), lambda n=number: self._load(n))

    def _load(self, worker: int) -> None:
        state = self.workers[worker]
        if state.dead:
            return
        if self.start_failures and (failure := self.start_failures.pop(0)):
            if isinstance(failure, dict):
                self._events.append(Message(worker, {"type": "fatal", **failure}))
            self._end(worker, 2 if isinstance(failure, dict) and failure["class"] == "configuration" else 1)
            return
        state.ready = True
        self._events.append(Message(worker, {"type": "ready", "protocol": 1, "in_flight": self.in_flight,
                                             "output": "out", "model": "m"}))

    def _process(self, worker: int, request: dict) -> None:
        state = self.workers[worker]
        if state.dead or request["id"] not in state.held:
            return
        behaviour = self.behaviours[request["shard"]]
        if behaviour.claimed_until > self.now:
            if not request["wait"]:
                return self._answer(worker, request, "claimed")
            self.at(behaviour.claimed_until - self.now, lambda: self._answer(worker, request, "done_by_other"))
            return None
        behaviour.tries += 1
        if behaviour.kills:
            self.crashes[request["shard"]] = self.crashes.get(request["shard"], 0) + 1
            return self._end(worker, -11)
        if behaviour.tries <= behaviour.hangs:
            return None
        if behaviour.tries <= behaviour.transient_failures:
            return self._answer(worker, request, "failed", error={"class": "transient", "message": "reset", "attempts": 1})
        if behaviour.permanent:
            return self._answer(worker, request, "failed", error={"class": "permanent", "message": "no tar", "attempts": 1})
        self._answer(worker, request, "committed", counts={"read": 1, "captioned": 1, "rejected": 0, "reasons": {}})
        self.done.append(request["shard"])
        return None

    def _record(self, worker: int, request: dict) -> None:
        if not self.workers[worker].dead:
            self.given_up[request["shard"]] = request["attempts"]
            self._answer(worker, request, "given_up")

    def _answer(self, worker: int, request: dict, outcome: str, **more) -> None:
        state = self.workers[worker]
        if not state.dead and state.held.pop(request["id"], None):
            self._events.append(Message(worker, {"type": "shard", "id": request["id"], "shard": request["shard"],
                                                 "outcome": outcome, **more}))

    def _end(self, worker: int, code: int) -> None:
        state = self.workers[worker]
        if not state.dead:
            state.dead = True
            self._events.append(Exited(worker, code, "log"))

    def _check_isolation(self, worker: int) -> None:
        held = [r for r in self.scheduler.held_by(worker) if not r.give_up]
        if any(request.shard.is_suspect for request in held):
            assert len(held) == 1, "a suspect has company"


class Run:
    """A driver over a simulated cluster."""

    def __init__(self, behaviours: dict[str, Behaviour], seed: int = 0, limits: Limits = Limits(), options: Options = Options(),
                 **cluster):
        self.cluster = SimulatedCluster(seed, behaviours, **cluster)
        self.scheduler = Scheduler(list(behaviours), limits)
        self.cluster.scheduler = self.scheduler
        self.results: dict[str, object] = {}
        self.lines: list[str] = []
        self.report = Report(clock=lambda: self.cluster.now)
        self.driver = Driver(self.scheduler, self.cluster, options, self.report, self.lines.append,
                             clock=lambda: self.cluster.now)
        add = self.report.add

        def add_once(result):
            assert result.shard not in self.results, "a shard ended twice"
            self.results[result.shard] = result
            add(result)

        self.report.add = add_once

    def run(self, most_seconds: float = 100_000):
        def check(_driver):
            assert self.cluster.now < most_seconds, f"still running: {self.lines[-5:]}"
        return self.driver.run(check)
