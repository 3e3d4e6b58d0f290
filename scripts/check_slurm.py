"""The Slurm example on a real Slurm: controller, two nodes and munge on this machine, started and ended here, without systemd.

    apt-get install --no-install-recommends slurmctld slurmd slurm-client munge
    sudo python3 scripts/check_slurm.py [--shards 24] [--samples 300] [--keep]

The files of examples/slurm are submitted as they are, but for the lines that are marked EDIT, by a user without rights:

- an array of 4 tasks on two nodes, each with a GPU of its own (a device file stands for it); the process of one task is killed
  in the middle: the task returns to the queue, the others go on, and `finalize` runs when all have ended, with exit code 0.
  All rows are those of one process alone.
- the end of --time: the task gets SIGTERM, finishes its shards in flight, and goes on after the requeue.
- a wrong configuration (exit code 2): no restart. `scancel`: no restart. A node that dies: Slurm itself restarts the task.

Root is needed because slurmd starts jobs of other users. Prints what it saw; exit code 1 with what does not hold.
"""
import argparse, json, os, pathlib, pwd, re, shutil, signal, socket, subprocess, sys, tempfile, time

import soak

EXAMPLES = soak.ROOT / "examples/slurm"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel", "sinfo")
USER = "nobody"
CPUS_PER_NODE = 4
CONFIGURATION = """\
ClusterName=trial
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
AuthType=auth/munge
# A requeued task waits for as long as its credential is valid: 120 s by default.
AuthInfo=socket={root}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={root}/state
SlurmctldPidFile={root}/slurmctld.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdSpoolDir={root}/spool-%n
SlurmdPidFile={root}/slurmd-%n.pid
SlurmdLogFile={root}/slurmd-%n.log
SlurmdParameters=config_overrides
SlurmdTimeout=60
ReturnToService=1
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
KillWait=10
GresTypes=gpu
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs={cpus} RealMemory=8000 Gres=gpu:2
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs={cpus} RealMemory=8000 Gres=gpu:2
PartitionName=trial Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""
problems: list[str] = []


def check(holds: bool, what: str) -> None:
    print(("ok      " if holds else "FAILED  ") + what, flush=True)
    if not holds:
        problems.append(what)


def wait_until(what: str, holds, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            raise SystemExit(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.3)


def free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


class Cluster:
    """munge, a controller and two nodes, as long as the `with` block."""

    def __init__(self, root: pathlib.Path) -> None:
        self.root, self.processes = root, {}
        self.environment = soak.environment(SLURM_CONF=str(root / "slurm.conf"))

    def __enter__(self) -> "Cluster":
        root = self.root
        for folder in ("private", "state"):
            (root / folder).mkdir(mode=0o700)
        (root / "slurm.conf").write_text(CONFIGURATION.format(
            root=root, host=socket.gethostname().split(".")[0], ports=free_ports(3), cpus=CPUS_PER_NODE))
        (root / "gres.conf").write_text("".join(f"NodeName={node} Name=gpu File=/dev/tty[{files}]\n"
                                                for node, files in (("n1", "0-1"), ("n2", "2-3"))))
        key = root / "private/key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        private = root / "private"
        self.start("munged", "--foreground", f"--key-file={key}", f"--socket={root}/munge.socket", f"--pid-file={private}/pid",
                   f"--log-file={private}/log", f"--seed-file={private}/seed")
        wait_until("munge's socket", (root / "munge.socket").exists, 20)
        self.start("slurmctld", "-D")
        for node in ("n1", "n2"):
            self.start("slurmd", "-D", "-N", node, name=node)
        try:
            wait_until("two idle nodes", lambda: self.nodes() == {"n1": "idle", "n2": "idle"}, 60)
        except BaseException:
            self.__exit__()
            raise
        return self

    def start(self, program: str, *arguments: str, name: str = "") -> None:
        name = name or program
        with open(self.root / f"{name}.out", "w") as log:
            self.processes[name] = subprocess.Popen([program, *arguments], env=self.environment, stdin=subprocess.DEVNULL,
                                                    stdout=log, stderr=log, cwd=self.root)

    def __exit__(self, *_) -> None:
        # Ends what may still run: jobs first, while the nodes can end them.
        subprocess.run(["scancel", "--user", USER], env=self.environment, capture_output=True)
        end = time.monotonic() + 20
        while self.ask("squeue", "--noheader") and time.monotonic() < end:
            time.sleep(0.5)
        for name in ("n1", "n2", "slurmctld", "munged"):
            process = self.processes.get(name)
            if process and process.poll() is None:
                process.terminate()
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    def ask(self, *command: str) -> str:
        return subprocess.run(command, env=self.environment, capture_output=True, text=True).stdout.strip()

    def nodes(self) -> dict[str, str]:
        lines = self.ask("sinfo", "--noheader", "--Node", "--format=%N %t").splitlines()
        return dict(line.split() for line in lines)

    def as_user(self, *command: str, cwd: pathlib.Path) -> str:
        """Runs a command as a user without rights, and returns what it prints."""
        user = pwd.getpwnam(USER)
        done = subprocess.run(command, env=self.environment | {"HOME": str(cwd)}, cwd=cwd, user=user.pw_uid, group=user.pw_gid,
                              extra_groups=[], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}: {done.stderr}")
        return done.stdout.strip()

    def job(self, task: str) -> dict[str, str]:
        """What the controller knows about a job or a task of an array, such as `7_2`."""
        text = self.ask("scontrol", "show", "job", "--oneliner", task)
        return dict(re.findall(r"(\S+?)=(\S*)", text.splitlines()[0])) if text else {}

    def state(self, task: str) -> str:
        return self.job(task).get("JobState", "")

    def ended(self, *tasks: str) -> bool:
        return all(self.state(task) not in ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUED") for task in tasks)


def recaptions(task: str) -> list[int]:
    """Process numbers of the program in a task of an array."""
    array, index = task.split("_")
    wanted = {f"SLURM_ARRAY_JOB_ID={array}".encode(), f"SLURM_ARRAY_TASK_ID={index}".encode()}
    found = []
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            environment = set((process / "environ").read_bytes().split(b"\0"))
        except OSError:
            continue
        if words[0].rsplit(b"/", 1)[-1] == b"recaption" and wanted <= environment:
            found.append(int(process.name))
    return found


class Trial:
    """A folder of a user with the example's files, edited at the marked lines."""

    def __init__(self, cluster: Cluster, name: str, shared: pathlib.Path, edits: dict[str, str], tasks: int, minutes: int,
                 lead_seconds: int | None = None) -> None:
        self.cluster, self.output = cluster, shared / name
        self.folder = shared / f"job-{name}"
        self.folder.mkdir()
        values = {"captioner": shared / "model", "shards": f"{shared}/in/*.tar", "url": self.output} | edits
        text = (EXAMPLES / "recaption.toml").read_text()
        for key, value in values.items():
            text, number = re.subn(rf'^{key} = ".*"( +# EDIT)$', rf'{key} = "{value}"\1', text, flags=re.M)
            assert number == 1, f"examples/slurm/recaption.toml has no marked line {key}"
        (self.folder / "recaption.toml").write_text(text + ("thraeds = 1\n" if name == "refused" else ""))
        self.write("recaption.sbatch", {r"^#SBATCH --array=\S+": f"#SBATCH --array=0-{tasks - 1}",
                                        r"^#SBATCH --time=\S+": f"#SBATCH --time=00:{minutes:02}:00",
                                        r"^#SBATCH --cpus-per-task=8": "#SBATCH --cpus-per-task=1",
                                        r"^#SBATCH --mem=32G": "#SBATCH --mem=1G"}
                   | ({r"TERM@\d+": f"TERM@{lead_seconds}"} if lead_seconds else {}), shared)
        self.write("finalize.sbatch", {r"^#SBATCH --mem=8G": "#SBATCH --mem=1G"}, shared)
        shutil.copy(EXAMPLES / "submit.sh", self.folder)
        user = pwd.getpwnam(USER)
        for path in (self.folder, *self.folder.iterdir()):
            os.chown(path, user.pw_uid, user.pw_gid)

    def write(self, name: str, edits: dict[str, str], shared: pathlib.Path) -> None:
        text = (EXAMPLES / name).read_text()
        for pattern, line in (edits | {"/opt/recaption/bin": f"{shared}/bin"}).items():
            text, number = re.subn(pattern, line, text, flags=re.M)
            assert number, f"examples/slurm/{name} has no {pattern}"
        (self.folder / name).write_text(text)

    def submit(self) -> tuple[str, str]:
        """The numbers of the array and of the job after it."""
        said = self.cluster.as_user("./submit.sh", cwd=self.folder)
        return re.match(r"array (\d+), then finalize (\d+)", said).groups()

    def log(self, task: str) -> str:
        return (self.folder / f"recaption-{task}.log").read_text()

    def log_lines(self, task: str) -> list[dict]:
        """What recaption logged, without what the script printed."""
        return [json.loads(line) for line in self.log(task).splitlines() if line.startswith("{")]

    def commits(self) -> int:
        return len(list((self.output / "_recaption/shards").glob("*.json")))


def killed_task(cluster: Cluster, shared: pathlib.Path, wanted: dict) -> None:
    trial = Trial(cluster, "killed", shared, {}, 4, 30)
    array, finalize = trial.submit()
    tasks = [f"{array}_{n}" for n in range(4)]
    wait_until("four running tasks and three commits",
               lambda: all(recaptions(task) for task in tasks) and trial.commits() >= 3)
    nodes = {cluster.job(task)["NodeList"] for task in tasks}
    gpus = {(cluster.job(task)["NodeList"], gpu_of(task)) for task in tasks}
    check(nodes == {"n1", "n2"} and len(gpus) == 4, f"4 tasks run on nodes {', '.join(sorted(nodes))}, each with its own GPU: "
          + ", ".join(f"{node}:{gpu}" for node, gpu in sorted(gpus)))
    victim = tasks[1]
    at = trial.commits()
    os.kill(recaptions(victim)[0], signal.SIGKILL)
    print(f"        killed the process of task {victim} (kill -9) with {at} of {len(wanted)} shards committed", flush=True)
    wait_until("the killed task in the queue", lambda: cluster.job(victim).get("Restarts") == "1", 60)
    check(cluster.state(finalize) == "PENDING", f"task {victim} is back in the queue (Restarts=1), and finalize waits for it")
    wait_until("the end of the array and of finalize", lambda: cluster.ended(*tasks, finalize), 600)
    ends = {task: (cluster.job(task)["ExitCode"], cluster.job(task)["Restarts"]) for task in tasks}
    check(ends == {task: ("0:0", "1" if task == victim else "0") for task in tasks},
          "exit code and restarts of the tasks: " + ", ".join(f"{t} {code} {n}" for t, (code, n) in ends.items()))
    places = [(line["index"], line["count"]) for line in trial.log_lines(victim) if line.get("scheduler") == "Slurm"]
    check(places == [(1, 4)] * 2, f"before and after the restart the task is number and count {places}")
    check("exit code 137; task" in trial.log(victim), "the log of the killed task says exit code 137 and restart 1 of 10")
    totals = json.loads((trial.output / "_recaption/totals.json").read_text())
    state, shards, images = totals["state"], totals["shards"], totals["samples"]["captioned"]
    ends_well = cluster.job(finalize)["ExitCode"] == "0:0" and state == "complete" and shards["committed"] == len(wanted)
    check(ends_well and (trial.output / "report.html").exists(),
          f"finalize ended with {cluster.job(finalize)['ExitCode']}: {state}, {shards['committed']} of {shards['inputs']} shards, "
          f"{images} images captioned; totals.json and report.html are there")
    found = soak.rows(soak.Folder(shared), "killed")
    check(True, f"{soak.compare(wanted, found, 'killed')} rows of {len(found)} shards are those of one process alone")


def gpu_of(task: str) -> str:
    environment = pathlib.Path(f"/proc/{recaptions(task)[0]}/environ").read_bytes().split(b"\0")
    return next((e.split(b"=")[1].decode() for e in environment if e.startswith(b"CUDA_VISIBLE_DEVICES=")), "none")


def time_limit(cluster: Cluster, shared: pathlib.Path, wanted: dict) -> None:
    # Slurm looks every 30 s and sends the signal up to a minute early: here 10 to 70 s after the start. One that comes while the
    # script is being started is lost, and there is no second one.
    trial = Trial(cluster, "time", shared, {}, 1, 2, lead_seconds=50)
    array, finalize = trial.submit()
    task = f"{array}_0"
    wait_until("a running task", lambda: bool(recaptions(task)))
    began = time.monotonic()
    wait_until("a commit", lambda: trial.commits() >= 1)
    # Held until the signal has come, so that a fast machine is not done before it.
    held = [pid for pid in recaptions(task) if time.monotonic() - began < 70]
    for pid in held:
        os.kill(pid, signal.SIGSTOP)
    wait_until("the signal", lambda: not held or time.monotonic() - began > 75)
    for pid in held:
        os.kill(pid, signal.SIGCONT)
    wait_until("the end of the task and of finalize", lambda: cluster.ended(task, finalize), 1800)
    restarts, log = int(cluster.job(task)["Restarts"]), trial.log(task)
    check(cluster.job(task)["ExitCode"] == "0:0" and restarts >= 1,
          f"--time: ended with {cluster.job(task)['ExitCode']} after {restarts} restarts")
    check(log.count("exit code 1; task") == restarts, f"--time: SIGTERM ended recaption {restarts} times with exit code 1")
    found = soak.rows(soak.Folder(shared), "time")
    check(True, f"--time: {soak.compare(wanted, found, 'time')} rows are those of one process alone")


def no_restarts(cluster: Cluster, shared: pathlib.Path) -> None:
    trial = Trial(cluster, "refused", shared, {}, 2, 10)
    array, finalize = trial.submit()
    tasks = [f"{array}_{n}" for n in range(2)]
    wait_until("the end of the refused tasks", lambda: cluster.ended(*tasks, finalize))
    ends = [(cluster.job(task)["ExitCode"], cluster.job(task)["Restarts"]) for task in tasks]
    check(ends == [("2:0", "0")] * 2, f"a wrong configuration: exit code and restarts {ends}")
    trial = Trial(cluster, "cancelled", shared, {}, 2, 10)
    array, finalize = trial.submit()
    tasks = [f"{array}_{n}" for n in range(2)]
    wait_until("running tasks", lambda: all(recaptions(task) for task in tasks) and trial.commits())
    cluster.as_user("scancel", array, finalize, cwd=trial.folder)
    wait_until("the end of the cancelled tasks", lambda: cluster.ended(*tasks, finalize))
    ends = [(cluster.job(task)["JobState"], cluster.job(task)["Restarts"]) for task in tasks]
    check(ends == [("CANCELLED", "0")] * 2, f"scancel: state and restarts {ends}")
    wait_until("no process", lambda: not any(recaptions(task) for task in tasks), 30)


def dead_node(cluster: Cluster, shared: pathlib.Path, wanted: dict) -> None:
    trial = Trial(cluster, "node", shared, {}, 4, 30)
    array, finalize = trial.submit()
    tasks = [f"{array}_{n}" for n in range(4)]
    wait_until("running tasks", lambda: all(recaptions(task) for task in tasks) and trial.commits() >= 2)
    lost = [task for task in tasks if cluster.job(task)["NodeList"] == "n2"]
    # Everything of the node at once, as if it had lost power: slurmd, and shells and programs of its tasks.
    victims = [cluster.processes["n2"].pid, *descendants_of_node("n2"), *(p for task in lost for p in recaptions(task))]
    for pid in victims:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    cluster.processes["n2"].wait()
    cluster.ask("scontrol", "update", "nodename=n2", "state=down", "reason=dead")
    wait_until("the tasks of the dead node in the queue", lambda: all(cluster.job(t).get("Restarts") == "1" for t in lost), 60)
    wait_until("the end", lambda: cluster.ended(*tasks, finalize), 600)
    ends = {task: (cluster.job(task)["ExitCode"], cluster.job(task)["Restarts"]) for task in tasks}
    check(ends == {task: ("0:0", "1" if task in lost else "0") for task in tasks},
          f"a dead node: Slurm restarted its tasks ({', '.join(lost)}), all ended with 0 on the other one")
    found = soak.rows(soak.Folder(shared), "node")
    check(True, f"a dead node: {soak.compare(wanted, found, 'node')} rows are those of one process alone")


def descendants_of_node(node: str) -> list[int]:
    """The step daemons of a node and the shells that they started."""
    parents, steps = {}, []
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            stat = (process / "stat").read_text()
            words = (process / "cmdline").read_bytes()
            variables = (process / "environ").read_bytes()
        except OSError:
            continue
        parents[int(process.name)] = int(stat.rsplit(")", 1)[1].split()[1])
        if f"SLURMD_NODENAME={node}\0".encode() in variables and b"slurm_script" in words:
            steps.append(int(process.name))
    return [parents[pid] for pid in steps if parents.get(pid, 1) > 1] + steps


def draw_and_caption(shared: pathlib.Path, name: str, shards: int, samples: int) -> dict:
    """Draws shards, and returns the rows of one process alone."""
    soak.draw(shared / name, shards, samples)
    alone = subprocess.run(soak.command(f"{shared}/{name}/*.tar", f"{shared}/{name}-alone"), env=soak.environment(),
                           capture_output=True)
    assert alone.returncode == 0, alone.stderr.decode()[-500:]
    return soak.rows(soak.Folder(shared), f"{name}-alone")


def prepare(shared: pathlib.Path) -> None:
    """Program and model where all nodes see them."""
    (shared / "bin").mkdir()
    shutil.copy(soak.PROGRAM, shared / "bin/recaption")
    shutil.copytree(soak.MODEL, shared / "model")
    library = pathlib.Path(soak.environment()["ORT_DYLIB_PATH"]).resolve()
    (shared / "onnxruntime/lib").mkdir(parents=True)
    shutil.copy(library, shared / "onnxruntime/lib/libonnxruntime.so")
    os.environ["ORT_DYLIB_PATH"] = str(shared / "onnxruntime/lib/libonnxruntime.so")
    shared.chmod(0o777)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", type=int, default=24)
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument("--keep", action="store_true", help="leave the folder with all logs")
    options = parser.parse_args()
    missing = [name for name in PROGRAMS if not shutil.which(name)]
    if missing or os.geteuid():
        raise SystemExit(f"needs root, and {', '.join(missing) or 'nothing else'}: "
                         "apt-get install --no-install-recommends slurmctld slurmd slurm-client munge")
    soak.in_venv()
    # Everything that was started is ended then, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    # Short: the path of a socket has 107 characters at most.
    root = pathlib.Path(tempfile.mkdtemp(prefix="slurm-trial-", dir="/tmp"))
    try:
        root.chmod(0o755)
        shared = root / "shared"
        shared.mkdir()
        prepare(shared)
        began = time.monotonic()
        wanted = draw_and_caption(shared, "in", options.shards, options.samples)
        seconds = time.monotonic() - began
        print(f"        one process alone: {options.shards} shards of {options.samples} images in {seconds:.0f} s")
        with Cluster(root) as cluster:
            print(f"        {cluster.ask('sinfo', '--version')}: nodes {', '.join(cluster.nodes())}")
            killed_task(cluster, shared, wanted)
            no_restarts(cluster, shared)
            dead_node(cluster, shared, wanted)
            time_limit(cluster, shared, wanted)
    finally:
        if options.keep or problems:
            print(f"logs: {root}")
        else:
            shutil.rmtree(root)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
