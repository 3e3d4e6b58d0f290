"""The Ray side of the driver: actors, their polls, and the nodes.

One poll per actor is always under way; the actor answers it when something happened, or after some seconds. Ray's own retries
are off (`max_restarts=0, max_task_retries=0`): a call that fails is repeated here, which is harmless, since requests and events
are numbered. An actor that does not answer for `lost_after` seconds is given up, whatever Ray thinks of it.
"""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import ray
from ray.exceptions import ActorUnavailableError, RayError

from . import actor as actor_module
from .events import Event, Exited, Lost, Message, Placed
from .process import WorkerSpec

# Seconds for which an actor keeps a poll without events.
POLL_SECONDS = 5.0
# Seconds before a poll that failed is repeated.
REPOLL_SECONDS = 1.0
NODES_SECONDS = 2.0
# Ray's words for an actor whose node is gone.
NODE_DIED = "because its node has died"


@dataclass(frozen=True)
class Resources:
    """What one worker takes of a node."""

    cpus: float = 1.0
    gpus: float = 0.0
    others: dict[str, float] = field(default_factory=dict)

    def fit_in(self, node: dict[str, float]) -> int:
        """How many workers a node with these resources has room for."""
        needs = {"CPU": self.cpus, "GPU": self.gpus} | self.others
        fits = [int(node.get(name, 0.0) / need + 1e-9) for name, need in needs.items() if need > 0]
        return min(fits, default=0)


@dataclass
class _Actor:
    handle: ray.actor.ActorHandle
    poll: ray.ObjectRef | None = None
    # When the poll under way began, and when the last one came back.
    polled: float = 0.0
    heard: float = 0.0
    acknowledged: int = 0
    placed: bool = False
    # Lines that the actor has not confirmed, the first of which has this number.
    lines: list[bytes] = field(default_factory=list)
    first: int = 1
    sending: ray.ObjectRef | None = None
    resend_at: float = 0.0


class RayCluster:
    """Workers as actors of the Ray cluster that this process is connected to."""

    def __init__(self, spec: Callable[[int], WorkerSpec], resources: Resources, lost_after: float = 60.0,
                 clock: Callable[[], float] = time.monotonic):
        # The nodes need Ray and recaption, but not this package: it travels with the actors.
        ray.cloudpickle.register_pickle_by_value(sys.modules[__package__])
        self._class = ray.remote(
            num_cpus=resources.cpus, num_gpus=resources.gpus, resources=resources.others, max_restarts=0, max_task_retries=0,
            max_concurrency=actor_module.THREADS, scheduling_strategy="SPREAD")(actor_module.WorkerActor)
        self._spec, self._resources, self._lost_after, self._clock = spec, resources, lost_after, clock
        self._actors: dict[int, _Actor] = {}
        self._capacity = 0
        self._nodes_known = threading.Event()
        # In a thread of its own: the question has no timeout, and the loop must not hang with the head node.
        threading.Thread(target=self._watch_nodes, name="nodes", daemon=True).start()
        self._nodes_known.wait(10.0)

    def capacity(self) -> int:
        """How many workers the living nodes have room for."""
        return self._capacity

    def start(self, worker: int) -> None:
        """Creates the actor; Ray places it when a node has room for it."""
        self._actors[worker] = _Actor(self._class.remote(self._spec(worker)))
        self._poll(self._actors[worker])

    def send(self, worker: int, lines: list[bytes]) -> None:
        """Sends request lines."""
        if entry := self._actors.get(worker):
            entry.lines += lines
            self._send(entry)

    def close(self, worker: int) -> None:
        """Ends the process's standard input."""
        if entry := self._actors.get(worker):
            entry.handle.close.remote()

    def stop(self, worker: int) -> None:
        """Sends SIGTERM to the process."""
        if entry := self._actors.get(worker):
            entry.handle.stop.remote()

    def kill(self, worker: int) -> None:
        """Removes the actor; also one that was never placed."""
        if entry := self._actors.pop(worker, None):
            _kill(entry.handle)

    def events(self, timeout: float) -> list[Event]:
        """Returns what happened, after at most `timeout` seconds and the little that Ray takes."""
        by_ref = {entry.poll: number for number, entry in self._actors.items() if entry.poll is not None}
        refs = [*by_ref, *(entry.sending for entry in self._actors.values() if entry.sending is not None)]
        if not refs:
            time.sleep(timeout)
            return self._check_times([])
        ray.wait(refs, num_returns=1, timeout=timeout)
        ready = ray.wait(refs, num_returns=len(refs), timeout=0)[0]
        events: list[Event] = []
        for ref in ready:
            if ref in by_ref:
                events += self._polled(by_ref[ref])
        for entry in self._actors.values():
            if entry.sending in ready:
                self._sent(entry)
        return self._check_times(events)

    def _poll(self, entry: _Actor) -> None:
        entry.polled = self._clock()
        # The first one returns at once, which tells that the actor was placed.
        entry.poll = entry.handle.poll.remote(entry.acknowledged, POLL_SECONDS if entry.placed else 0.0)

    def _polled(self, worker: int) -> list[Event]:
        entry = self._actors[worker]
        ref, entry.poll = entry.poll, None
        try:
            reply = ray.get(ref, timeout=10)
        except ActorUnavailableError:
            # It may come back: `_check_times` polls again, and gives up in the end.
            return []
        except RayError as error:
            return [Lost(worker, _reason(error), NODE_DIED in str(error))]
        now, events = self._clock(), []
        entry.heard = now
        if not entry.placed:
            entry.placed = True
            events.append(Placed(worker, reply["node"], reply["host"], reply["pid"]))
        for number, message in reply["events"]:
            entry.acknowledged = number
            if message["type"] == "exit":
                events.append(Exited(worker, message["code"], message["detail"]))
            else:
                events.append(Message(worker, message))
        self._poll(entry)
        return events

    def _send(self, entry: _Actor) -> None:
        if entry.sending is None and entry.lines and self._clock() >= entry.resend_at:
            entry.sending = entry.handle.send.remote(entry.first, list(entry.lines))

    def _sent(self, entry: _Actor) -> None:
        ref, entry.sending = entry.sending, None
        try:
            received = ray.get(ref, timeout=10)
        except RayError:
            # The poll tells whether the actor is gone.
            entry.resend_at = self._clock() + REPOLL_SECONDS
            return
        del entry.lines[: received + 1 - entry.first]
        entry.first = received + 1
        self._send(entry)

    def _check_times(self, events: list[Event]) -> list[Event]:
        now = self._clock()
        ended = {event.worker for event in events if isinstance(event, Lost | Exited)}
        for number, entry in self._actors.items():
            if number in ended:
                continue
            if entry.placed and now - entry.heard > POLL_SECONDS + self._lost_after:
                events.append(Lost(number, f"its actor did not answer for {now - entry.heard:.0f} s", node_died=True))
            elif entry.poll is None and now - entry.polled >= REPOLL_SECONDS:
                self._poll(entry)
            self._send(entry)
        return events

    def _watch_nodes(self) -> None:
        while True:
            try:
                nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
                self._capacity = sum(self._resources.fit_in(node) for node in nodes)
                self._nodes_known.set()
            except Exception:  # noqa: BLE001: disconnected, at the end or because the head is gone; the loop notices by itself
                pass
            time.sleep(NODES_SECONDS)


def _kill(handle: ray.actor.ActorHandle) -> None:
    try:
        ray.kill(handle, no_restart=True)
    except (RayError, ValueError):
        pass


def _reason(error: Exception) -> str:
    """Ray's explanation on one line, from where it says why, without stack traces."""
    text = " ".join(str(error).split())
    why = re.search(r"The actor (died|is dead|is not schedulable|is unavailable)[^.]*because.*", text)
    return (why[0] if why else text)[:400]
