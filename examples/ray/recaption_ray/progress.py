"""Progress on standard error: one line that is redrawn on a terminal, a line every ten seconds elsewhere."""

from __future__ import annotations

import shutil
import sys
import time
from collections import deque
from typing import TextIO

from .driver import Driver, State

REDRAW_SECONDS = 0.5
LOG_SECONDS = 10.0
# Seconds over which the rate is measured.
RATE_WINDOW = 120.0


class Progress:
    """Shows how far a run is, and its log."""

    def __init__(self, stream: TextIO = sys.stderr, clock=time.monotonic):
        self._stream, self._clock = stream, clock
        self._is_terminal = stream.isatty()
        self._next = clock() + (0 if self._is_terminal else LOG_SECONDS)
        self._history: deque[tuple[float, int]] = deque([(clock(), 0)])
        self._drawn = False

    def log(self, line: str) -> None:
        """Prints a line above the progress."""
        self.clear()
        print(f"{time.strftime('%H:%M:%S')} {line}", file=self._stream, flush=True)

    def tick(self, driver: Driver) -> None:
        """Shows progress if it is time to."""
        now = self._clock()
        if now < self._next:
            return
        self._next = now + (REDRAW_SECONDS if self._is_terminal else LOG_SECONDS)
        line = self._line(driver, now)
        if not self._is_terminal:
            return self.log(line)
        width = shutil.get_terminal_size().columns - 1
        self._stream.write(f"\r\x1b[K{line[:width]}")
        self._stream.flush()
        self._drawn = True

    def clear(self) -> None:
        """Removes the drawn line."""
        if self._drawn:
            self._stream.write("\r\x1b[K")
            self._drawn = False

    def _line(self, driver: Driver, now: float) -> str:
        report, scheduler = driver.report, driver.scheduler
        self._history.append((now, report.read))
        while len(self._history) > 2 and now - self._history[0][0] > RATE_WINDOW:
            self._history.popleft()
        seconds, images = now - self._history[0][0], report.read - self._history[0][1]
        done = scheduler.ended
        eta = format_seconds(report.seconds / done * scheduler.remaining) if done else "?"
        failed = f" ({report.failed} failed)" if report.failed else ""
        waiting = "" if driver.workers else "; waiting for nodes with room for one"
        others = "".join(f", {n} {state.value}" for state in (State.STARTING, State.PENDING)
                         if (n := driver.count(state)))
        return (f"shards {done}/{scheduler.total}{failed}, {scheduler.in_flight} in flight | ETA {eta}, "
                f"{images / seconds if seconds else 0:.1f} images/s | workers {driver.count(State.READY)} ready{others}{waiting} | "
                f"{report.read} images, {report.rejected} rejected")


def format_seconds(seconds: float) -> str:
    """Such as 5s, 1m05s, 2h01m."""
    s = round(seconds)
    if s >= 3600:
        return f"{s // 3600}h{s % 3600 // 60:02}m"
    return f"{s // 60}m{s % 60:02}s" if s >= 60 else f"{s}s"
