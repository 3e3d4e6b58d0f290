# For the trial alone: recaption, except that a worker dies when it is sent the shard whose name ends with TRIAL_KILLS. This
# process becomes recaption; a child reads its standard input in its place and kills it.
import json
import os
import signal
import sys

program, killer = os.environ["TRIAL_PROGRAM"], os.environ["TRIAL_KILLS"]
if sys.argv[1] == "worker":
    reading, writing = os.pipe()
    recaption = os.getpid()
    if os.fork() == 0:
        for unused in (reading, 1, 2):
            os.close(unused)
        with os.fdopen(writing, "wb", buffering=0) as requests:
            for line in sys.stdin.buffer:
                request = json.loads(line)
                if request["shard"].endswith(killer) and "give_up" not in request:
                    os.kill(recaption, signal.SIGKILL)
                    os._exit(0)
                try:
                    requests.write(line)
                except BrokenPipeError:
                    os._exit(0)
        os._exit(0)
    os.close(writing)
    os.dup2(reading, 0)
    os.close(reading)
os.execv(program, [program, *sys.argv[1:]])
