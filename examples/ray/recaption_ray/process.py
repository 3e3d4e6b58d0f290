"""A `recaption worker` process and the threads that serve its pipes. Runs inside an actor; knows no Ray.

The process asks Linux for SIGTERM when its parent dies, and "parent" there is the thread that started it. So it is started by a
thread that lives until the process has ended, and not by whichever thread happens to run a method of the actor.

Both directions survive a call that is repeated or whose reply is lost: requests are numbered by the sender and taken once,
events are numbered here and kept until the next poll acknowledges them.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from .protocol import MAX_LINE, ProtocolError, parse

# Of the log, for the message about a death.
TAIL_LINES = 3
MAX_LOG_LINE = 4096
MAX_TAIL_CHARACTERS = 600
# For the rest of its output, once the process has ended.
DRAIN_SECONDS = 1.0


@dataclass(frozen=True)
class WorkerSpec:
    """What to run."""

    # Program and arguments without the configuration file.
    command: list[str]
    # Name and bytes of the configuration file, which is written beside the process.
    config_name: str
    config: bytes
    # Where relative paths start, if the node has it.
    directory: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    label: str = "recaption"


class WorkerProcess:
    """One process for its whole life; it is never restarted."""

    def __init__(self, spec: WorkerSpec):
        self._spec = spec
        self._changed = threading.Condition()
        self._events: deque[tuple[int, dict]] = deque()
        self._event_number = 0
        self._received = 0
        self._input: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._process: subprocess.Popen | None = None
        self._stopping = self._ended = False
        self._folder: Path | None = None
        # Why the process had to be killed.
        self._broken = ""
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        # Not a daemon thread: the process must outlive no thread but this one.
        threading.Thread(target=self._keep, name="recaption-keeper").start()

    def send(self, first: int, lines: list[bytes]) -> int:
        """Takes request lines, of which the first has number `first`; those taken before are skipped. Returns the last number."""
        with self._changed:
            for number, line in enumerate(lines, first):
                if number == self._received + 1:
                    self._received = number
                    self._input.put(line)
            return self._received

    def poll(self, acknowledged: int, seconds: float) -> list[tuple[int, dict]]:
        """Returns events after `acknowledged`; waits for one for at most `seconds`."""
        with self._changed:
            while self._events and self._events[0][0] <= acknowledged:
                self._events.popleft()
            self._changed.wait_for(lambda: self._events, seconds)
            return list(self._events)

    def close(self) -> None:
        """Ends the process's standard input: it finishes what it has and ends."""
        self._input.put(None)

    def stop(self) -> None:
        """Sends SIGTERM, now or as soon as the process has started, and ends its standard input."""
        self._input.put(None)
        with self._changed:
            self._stopping = True
            if self._process and self._process.poll() is None:
                self._process.send_signal(signal.SIGTERM)

    @property
    def pid(self) -> int | None:
        """The process's id, once it has started."""
        return self._process.pid if self._process else None

    def _keep(self) -> None:
        try:
            process = self._start()
        except OSError as error:
            self._remove_config()
            self._emit({"type": "exit", "code": None, "detail": f"cannot start {self._spec.command[0]}: {error}"})
            return
        threads = [threading.Thread(target=pump, args=(process,), daemon=True)
                   for pump in (self._pump_messages, self._pump_log, self._pump_input)]
        for thread in threads:
            thread.start()
        # Not the end of its output: a child that it left may keep the pipes open.
        code = process.wait()
        for thread in threads[:2]:
            thread.join(timeout=DRAIN_SECONDS)
        self._input.put(None)
        self._remove_config()
        detail = self._broken or " / ".join(self._tail)[-MAX_TAIL_CHARACTERS:]
        self._emit({"type": "exit", "code": code, "detail": detail})

    def _start(self) -> subprocess.Popen:
        self._folder = Path(tempfile.mkdtemp(prefix="recaption-"))
        config = self._folder / self._spec.config_name
        # It may hold secrets; the folder is readable to this user alone.
        config.write_bytes(self._spec.config)
        directory = self._spec.directory if os.path.isdir(self._spec.directory) else None
        with self._changed:
            self._process = subprocess.Popen(
                [*self._spec.command[:2], str(config), *self._spec.command[2:]], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.PIPE, cwd=directory, env=os.environ | self._spec.environment, start_new_session=True)
            if self._stopping:
                self._process.send_signal(signal.SIGTERM)
        return self._process

    def _pump_messages(self, process: subprocess.Popen) -> None:
        with process.stdout as messages:
            while line := messages.readline(MAX_LINE):
                try:
                    message = parse(line)
                except ProtocolError as error:
                    self._broken = str(error)
                    process.kill()
                    return
                if message["type"] == "ready":
                    self._remove_config()
                self._emit(message)

    def _pump_input(self, process: subprocess.Popen) -> None:
        try:
            while (line := self._input.get()) is not None:
                process.stdin.write(line)
                process.stdin.flush()
        except OSError:
            # The process has ended; what it did not answer goes to another.
            pass
        try:
            process.stdin.close()
        except OSError:
            pass

    def _pump_log(self, process: subprocess.Popen) -> None:
        with process.stderr as log:
            while line := log.readline(MAX_LOG_LINE):
                text = line.decode(errors="replace").rstrip()
                self._remember(text)
                print(f"[{self._spec.label}] {text}", file=sys.stderr, flush=True)

    def _remember(self, line: str) -> None:
        """Keeps a line of the log that may say why the process died: errors, and what is no log entry, such as a panic."""
        try:
            entry = json.loads(line)
            is_error = entry["level"] == "ERROR"
            line = str(entry["message"])
        except (ValueError, KeyError, TypeError):
            is_error = True
        if is_error:
            self._tail.append(line)

    def _remove_config(self) -> None:
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _emit(self, message: dict) -> None:
        with self._changed:
            if self._ended:
                return
            self._ended = message["type"] == "exit"
            self._event_number += 1
            self._events.append((self._event_number, message))
            self._changed.notify_all()
