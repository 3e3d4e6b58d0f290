"""Totals and exit code of a run: those of `recaption run`, over all workers."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum

from .protocol import redact
from .scheduler import End, Outcome, ShardResult

# Shards that are named, of each kind; the others are counted. `recaption status` names all.
MAX_LISTED = 1000
MAX_ERROR_CHARACTERS = 2000


class ExitCode(IntEnum):
    """Exit codes of `recaption run`."""

    DONE = 0
    # Failed or interrupted: the same command continues.
    FAILED = 1
    # Bad arguments or configuration: never retry.
    USAGE = 2
    # Finished, but shards failed or are damaged.
    INCOMPLETE = 3
    # Finished, and every failure left is permanent: never retry.
    PERMANENT = 4


@dataclass
class Report:
    """What a run did; grows while it runs."""

    clock: Callable[[], float] = time.monotonic
    started: float = field(init=False)
    output: str = ""
    model: str = ""
    shards: int = 0
    shards_done: int = 0
    shards_done_by_others: int = 0
    shards_done_twice: int = 0
    shards_failed: list[dict] = field(default_factory=list)
    failed: int = 0
    permanent: int = 0
    given_up: int = 0
    shards_damaged: list[str] = field(default_factory=list)
    damaged: int = 0
    shards_incomplete: int = 0
    read: int = 0
    captioned: int = 0
    rejected: int = 0
    reasons: Counter = field(default_factory=Counter)
    workers_ready: int = 0
    workers_ended: Counter = field(default_factory=Counter)
    interrupted: bool = False
    # Class and text of the error that ended the run.
    fatal: tuple[str, str] | None = None
    # How `recaption finalize` ended, if it was called and that counts.
    finalize_code: ExitCode | None = None

    def __post_init__(self) -> None:
        self.started = self.clock()

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return self.clock() - self.started

    def worker_ready(self, ready: dict) -> None:
        """Takes what a ready line says about the run."""
        self.workers_ready += 1
        self.output, self.model = str(ready.get("output", "")), str(ready.get("model", ""))

    def worker_ended(self, end: End) -> None:
        """Counts a worker that ended while the run went on."""
        self.workers_ended[end.value] += 1

    def fail(self, kind: str, reason: str) -> None:
        """Ends the run; the first reason counts. `kind` is `configuration` or `failed`."""
        self.fatal = self.fatal or (kind, reason)

    def add(self, result: ShardResult) -> None:
        """Adds a shard that has ended."""
        answer = result.answer
        if result.outcome is Outcome.DONE:
            by_other = answer.get("outcome") != "committed"
            self.shards_done_by_others += by_other
            self.shards_done += not by_other
            self.shards_done_twice += answer.get("twice") is True
            self._add_counts(answer.get("counts") if not by_other else None)
            if damage := answer.get("damaged"):
                self.damaged += 1
                detail = damage.get("detail", damage) if isinstance(damage, dict) else damage
                self._list(self.shards_damaged, f"{redact(result.shard)}: {detail}")
            return
        self.failed += 1
        self.given_up += result.outcome is Outcome.GIVEN_UP
        self.permanent += result.permanent
        self._list(self.shards_failed, {
            "shard": redact(result.shard), "outcome": result.outcome.value, "error": result.error[:MAX_ERROR_CHARACTERS],
            "attempts": result.attempts, "permanent": result.permanent})

    def finalized(self, code: int) -> None:
        """Takes the exit code of `recaption finalize`. A signal, or a code that is none of recaption's, counts as failed."""
        self.finalize_code = ExitCode(code) if code in list(ExitCode) else ExitCode.FAILED

    def exit_code(self) -> ExitCode:
        """The exit code that this report means: the run's or finalize's, whichever needs more attention."""
        order = [ExitCode.DONE, ExitCode.PERMANENT, ExitCode.INCOMPLETE, ExitCode.FAILED, ExitCode.USAGE]
        return max(self._run_code(), self.finalize_code or ExitCode.DONE, key=order.index)

    def _run_code(self) -> ExitCode:
        if self.fatal:
            return ExitCode.USAGE if self.fatal[0] == "configuration" else ExitCode.FAILED
        if self.shards_incomplete:
            return ExitCode.FAILED
        if self.damaged or self.failed > self.permanent:
            return ExitCode.INCOMPLETE
        return ExitCode.PERMANENT if self.failed else ExitCode.DONE

    def to_json(self) -> dict:
        """The report as one JSON object."""
        return {
            "output": self.output, "model": self.model, "seconds": round(self.seconds, 1), "shards": self.shards,
            "shards_done": self.shards_done, "shards_done_by_others": self.shards_done_by_others,
            "shards_done_twice": self.shards_done_twice, "shards_failed": self.shards_failed,
            "shards_given_up": self.given_up, "shards_damaged": self.shards_damaged,
            "shards_incomplete": self.shards_incomplete,
            "counts": {"read": self.read, "captioned": self.captioned, "rejected": self.rejected,
                       "reasons": dict(self.reasons)},
            "workers_ready": self.workers_ready, "workers_ended": dict(self.workers_ended),
            "interrupted": self.interrupted, "error": self.fatal[1] if self.fatal else None,
            "finalize_exit_code": None if self.finalize_code is None else int(self.finalize_code),
            "exit_code": int(self.exit_code())}

    def to_text(self) -> str:
        """The report for a person."""
        seconds = self.seconds
        incomplete = f", {self.shards_incomplete} incomplete" if self.shards_incomplete else ""
        lines = [
            f"shards    {self.shards_done + self.shards_done_by_others} done, {self.failed} failed, "
            f"{self.damaged} damaged{incomplete}",
            f"samples   {self.read} read = {self.captioned} captioned + {self.rejected} rejected"]
        lines += [f"          {n:>8} {reason}" for reason, n in sorted(self.reasons.items())]
        lines.append(f"time      {seconds:.1f} s, {self.read / seconds if seconds else 0:.1f} images/s")
        ended = "".join(f", {n} {end}" for end, n in sorted(self.workers_ended.items()))
        lines.append(f"workers   {self.workers_ready} were ready{ended}")
        lines += [f"damaged   {shard}" for shard in self.shards_damaged]
        for failed in self.shards_failed:
            permanent = ", permanent" if failed["permanent"] else ""
            what = "given up" if failed["outcome"] == "given_up" else "failed"
            lines.append(f"{what:<9} {failed['shard']}: {failed['error']} ({failed['attempts']} attempts{permanent})")
        if (more := self.failed - len(self.shards_failed)) > 0:
            lines.append(f"          and {more} more: recaption status {self.output}")
        if self.shards_done_by_others:
            lines.append(f"note      {self.shards_done_by_others} shards were done by other workers of the output")
        if self.shards_done_twice:
            lines.append(f"note      {self.shards_done_twice} shards were processed here too, though another worker "
                         "committed them first")
        lines.append(f"output    {self.output or 'no worker was ready'}")
        if self.finalize_code:
            lines.append(f"finalize  ended with exit code {int(self.finalize_code)}")
        if self.interrupted and self.shards_incomplete:
            lines.append("interrupted: the same command continues where this one stopped")
        if self.fatal:
            lines.append(f"error: {self.fatal[1]}")
        return "\n".join(lines) + "\n"

    def _add_counts(self, counts: object) -> None:
        if not isinstance(counts, dict):
            return
        self.read += counts.get("read", 0)
        self.captioned += counts.get("captioned", 0)
        self.rejected += counts.get("rejected", 0)
        self.reasons.update(counts.get("reasons") or {})

    @staticmethod
    def _list(names: list, name: object) -> None:
        if len(names) < MAX_LISTED:
            names.append(name)
