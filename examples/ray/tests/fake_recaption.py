#!/usr/bin/env python3
"""A program that speaks the worker protocol and captions nothing; what happens to a shard is in its name.

    worker CONFIG [--threads N]    a configuration that begins with "bad" is refused, "noise" prints nonsense
    plan CONFIG --shards           the lines of the configuration are the shards
    finalize [OUT] [...]           takes the arguments of `recaption finalize` and no others, and writes them to
                                   $FAKE_FINALIZE_JOURNAL; ends with the code $FAKE_FINALIZE_ENDS, or "kill"
"""
import argparse
import ctypes
import json
import os
import signal
import sys
import time


def say(**message):
    print(json.dumps(message), flush=True)


def worker(config: str) -> int:
    print("loading", file=sys.stderr, flush=True)
    if config.startswith("bad"):
        say(type="fatal", **{"class": "configuration"}, error="unknown key")
        return 2
    if config.startswith("noise"):
        print("this is no JSON", flush=True)
        time.sleep(60)
    stopped = []

    def stop(*_):
        stopped.append(True)
        # End the blocking read.
        raise InterruptedError

    signal.signal(signal.SIGTERM, stop)
    if sys.platform == "linux":
        # PR_SET_PDEATHSIG: SIGTERM when the thread that started this process ends, as recaption asks for it.
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)
    say(type="ready", protocol=1, version="0", pid=os.getpid(), run="r", output="out", model="m", provider="cpu", in_flight=2,
        threads=sys.argv[3:], cwd=os.getcwd(), session=os.getsid(0))
    try:
        while line := sys.stdin.readline():
            request = json.loads(line)
            answer = {"type": "shard", "id": request.get("id"), "shard": request["shard"], "seconds": 0.0}
            if "give_up" in request:
                say(**answer, outcome="given_up")
                continue
            if "child" in request["shard"] and os.fork() == 0:
                # Keeps the pipes open.
                time.sleep(15)
                os._exit(0)
            if "kill" in request["shard"]:
                for level, message in (("INFO", "a shard"), ("ERROR", "about to die")):
                    print(json.dumps({"timestamp": "t", "level": level, "message": message}), file=sys.stderr, flush=True)
                os.kill(os.getpid(), signal.SIGKILL)
            if "sleep" in request["shard"]:
                time.sleep(1)
            say(**answer, outcome="committed", counts={"read": 1, "captioned": 1, "rejected": 0, "reasons": {}})
    except InterruptedError:
        return 1
    print("end of input", file=sys.stderr, flush=True)
    return 0


def finalize() -> int:
    # As FinalizeArgs in pipeline/cli/finalize.rs, and the flags of every command.
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("output", nargs="?")
    for flag in ("--config", "--log-format", "--log-level"):
        parser.add_argument(flag)
    for flag in ("--input", "--set"):
        parser.add_argument(flag, action="append")
    for flag in ("--no-report", "--no-images"):
        parser.add_argument(flag, action="store_true")
    args = parser.parse_args(sys.argv[2:])
    with open(os.environ["FAKE_FINALIZE_JOURNAL"], "w") as journal:
        json.dump(vars(args), journal)
    ends = os.environ["FAKE_FINALIZE_ENDS"]
    if ends == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    return int(ends)


def main() -> int:
    command, config = sys.argv[1], open(sys.argv[2]).read() if len(sys.argv) > 2 and os.path.exists(sys.argv[2]) else ""
    if command == "worker":
        return worker(config)
    if command == "plan":
        for shard in config.split():
            print(json.dumps({"shard": shard, "bytes": 1}))
        return 0
    if command == "finalize":
        return finalize()
    return 2


sys.exit(main())
