"""What a cluster tells the driver about its workers. A worker is a number that the driver chose; numbers are not used twice."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Placed:
    """The worker's actor runs on a node; its process is loading models."""

    worker: int
    node: str
    host: str
    pid: int


@dataclass(frozen=True)
class Message:
    """The worker's process printed a message of the protocol."""

    worker: int
    message: dict


@dataclass(frozen=True)
class Exited:
    """The worker's process ended, or could not be started. It says nothing more."""

    worker: int
    # Exit code; negative: minus the signal that ended it; None if it could not be started.
    code: int | None
    # What is known: the error, or the end of its log.
    detail: str = ""


@dataclass(frozen=True)
class Lost:
    """The worker's actor is gone, and its process with it or soon after."""

    worker: int
    reason: str
    # Whether its node went away, which says nothing about the worker.
    node_died: bool = False


Event = Placed | Message | Exited | Lost


def describe_exit(event: Exited) -> str:
    """One sentence about how a process ended."""
    if event.code is None:
        return event.detail
    how = f"was killed by signal {-event.code}" if event.code < 0 else f"ended with exit code {event.code}"
    return f"its process {how}" + (f"; its log: {event.detail}" if event.detail else "")
