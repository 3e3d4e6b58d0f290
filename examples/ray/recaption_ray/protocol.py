"""The worker protocol, version 1: one JSON object per line. docs/src/worker-protocol.md describes it."""

from __future__ import annotations

import json
import re

PROTOCOL = 1
# Outcomes after which the shard's rows are in the output.
DONE = frozenset({"committed", "already_done", "done_by_other"})
# Longest line that is read from a worker, in bytes. An answer has a few hundred.
MAX_LINE = 4 << 20


class ProtocolError(Exception):
    """A line that is no message of this protocol."""


def parse(line: bytes) -> dict:
    """Returns the message of one line.

    Raises ProtocolError if the line is no JSON object with a `type`.
    """
    try:
        message = json.loads(line)
    except ValueError as error:
        raise ProtocolError(f"the worker printed a line that is not JSON ({error}): {line[:200]!r}") from None
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise ProtocolError(f"the worker printed a line that is no message: {line[:200]!r}")
    return message


def check_ready(message: dict) -> int:
    """Returns `in_flight` of a ready line: how many shards the worker wants to hold, at least 1.

    Raises ProtocolError if the worker speaks another version.
    """
    version = message.get("protocol")
    if version != PROTOCOL:
        raise ProtocolError(f"the worker speaks protocol {version!r}, this driver speaks {PROTOCOL}: "
                            "install the same release of recaption everywhere")
    in_flight = message.get("in_flight", 1)
    return in_flight if isinstance(in_flight, int) and in_flight > 0 else 1


def shard_request(number: int, shard: str, wait: bool) -> bytes:
    """The request to process a shard. With `wait`, a shard that another worker has claimed is waited for."""
    return _line({"shard": shard, "id": number, "wait": wait})


def give_up_request(number: int, shard: str, reason: str, attempts: int) -> bytes:
    """The request to record a shard as failed without reading it."""
    return _line({"shard": shard, "id": number, "give_up": reason, "attempts": attempts})


def redact(url: str) -> str:
    """A URL without user info and query, which may hold secrets."""
    return re.sub(r"\?[^#\s]*", "", re.sub(r"(\w://)[^/@\s]*@", r"\1", url)) if "://" in url else url


def _line(message: dict) -> bytes:
    return json.dumps(message, ensure_ascii=False).encode() + b"\n"
