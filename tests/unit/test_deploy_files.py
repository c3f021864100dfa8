"""deploy/, Containerfile and the commands of docs/cluster.md: that Kubernetes, KubeRay and the jobs accept them.

The schemas below name the fields that the manifests use, as KubeRay's CRD (ray.io/v1) and Kubernetes' batch/v1 have
them. The CRD itself lets fields that it does not know pass, and drops them; here a misspelled one is an error.
"""

import copy
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import tyro
import yaml

from audioclf import config

ROOT = Path(__file__).parents[2]

TEXT, NUMBER, TRUTH = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
TEXTS = {"type": "array", "items": TEXT}
MAP = {"type": "object", "additionalProperties": TEXT}
QUANTITY = {"type": "string", "pattern": r"^\d+(\.\d+)?(m|[kMGT]i?)?$"}


def fields(required: str, /, **properties: Any) -> dict[str, Any]:
    """An object of these fields and no others; those required as words."""
    return {
        "type": "object", "properties": properties, "required": required.split(), "additionalProperties": False
    }  # fmt: skip


def each(item: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": item, "minItems": 1}


QUANTITIES = {"type": "object", "additionalProperties": QUANTITY}
CONTAINER = fields(
    "name image resources",
    name=TEXT,
    image=TEXT,
    command=TEXTS,
    args=TEXTS,
    env=each(fields("name value", name=TEXT, value=TEXT)),
    resources=fields("requests limits", requests=QUANTITIES, limits=QUANTITIES),
    securityContext=fields("", allowPrivilegeEscalation=TRUTH, capabilities=fields("drop", drop=TEXTS)),
    volumeMounts=each(fields("name mountPath", name=TEXT, mountPath=TEXT)),
)
POD = fields(
    "containers",
    containers=each(CONTAINER),
    serviceAccountName=TEXT,
    nodeSelector=MAP,
    restartPolicy={"enum": ["Always", "OnFailure", "Never"]},
    securityContext=fields("", runAsNonRoot=TRUTH, runAsUser=NUMBER),
    tolerations=each(
        fields("", key=TEXT, operator={"enum": ["Exists", "Equal"]}, value=TEXT, effect={"enum": ["NoSchedule"]})
    ),
    volumes=each(fields("name", name=TEXT, emptyDir=fields("", medium=TEXT, sizeLimit=QUANTITY))),
)
TEMPLATE = fields("spec", spec=POD)
METADATA = fields("name", name={"type": "string", "pattern": "^[a-z0-9]([a-z0-9-]{0,45}[a-z0-9])?$"})

RAY_JOB = fields(
    "apiVersion kind metadata spec",
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=METADATA,
    spec=fields(
        "entrypoint rayClusterSpec",
        entrypoint=TEXT,
        runtimeEnvYAML=TEXT,
        backoffLimit=NUMBER,
        shutdownAfterJobFinishes=TRUTH,
        ttlSecondsAfterFinished=NUMBER,
        rayClusterSpec=fields(
            "headGroupSpec",
            rayVersion=TEXT,
            enableInTreeAutoscaling=TRUTH,
            autoscalerOptions=fields("", version={"enum": ["v1", "v2"]}, idleTimeoutSeconds=NUMBER),
            headGroupSpec=fields("template", rayStartParams=MAP, template=TEMPLATE),
            workerGroupSpecs=each(
                fields(
                    "groupName minReplicas maxReplicas template",
                    groupName=TEXT,
                    replicas=NUMBER,
                    minReplicas=NUMBER,
                    maxReplicas=NUMBER,
                    rayStartParams=MAP,
                    template=TEMPLATE,
                )
            ),
        ),
    ),
)

ON_EXIT = fields(
    "operator values",
    containerName=TEXT,
    operator={"enum": ["In", "NotIn"]},
    values={"type": "array", "items": NUMBER},
)
RULE = {
    **fields(
        "action",
        action={"enum": ["FailJob", "FailIndex", "Ignore", "Count"]},
        onExitCodes=ON_EXIT,
        onPodConditions=each(fields("type", type=TEXT, status={"enum": ["True", "False", "Unknown"]})),
    ),
    "oneOf": [{"required": ["onExitCodes"]}, {"required": ["onPodConditions"]}],
}
CRON_JOB = fields(
    "apiVersion kind metadata spec",
    apiVersion={"const": "batch/v1"},
    kind={"const": "CronJob"},
    metadata=METADATA,
    spec=fields(
        "schedule jobTemplate",
        schedule={"type": "string", "pattern": r"^(\S+ ){4}\S+$"},
        timeZone=TEXT,
        concurrencyPolicy={"enum": ["Allow", "Forbid", "Replace"]},
        startingDeadlineSeconds=NUMBER,
        successfulJobsHistoryLimit=NUMBER,
        failedJobsHistoryLimit=NUMBER,
        jobTemplate=fields(
            "spec",
            spec=fields(
                "template",
                activeDeadlineSeconds=NUMBER,
                backoffLimit=NUMBER,
                podFailurePolicy=fields("rules", rules=each(RULE)),
                template=TEMPLATE,
            ),
        ),
    ),
)

CLUSTER = ("spec", "rayClusterSpec")
CPU_GROUP = (*CLUSTER, "workerGroupSpecs", 0)
HEAD_POD = (*CLUSTER, "headGroupSpec", "template", "spec")
JOB = ("spec", "jobTemplate", "spec")
TAG_POD = (*JOB, "template", "spec")


@pytest.fixture
def ray_job() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "deploy" / "rayjob.yaml").read_text())


@pytest.fixture
def nightly() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "deploy" / "nightly.yaml").read_text())


def at(manifest: Any, path: tuple[str | int, ...]) -> Any:
    for step in path:
        manifest = manifest[step]
    return manifest


def accept(manifest: dict[str, Any], schema: dict[str, Any]) -> None:
    jsonschema.validate(manifest, schema, cls=jsonschema.Draft202012Validator)


def refuse_renamed(manifest: dict[str, Any], schema: dict[str, Any], path: tuple[str | int, ...], wrong: str) -> None:
    """The manifest is refused, and the wrong name told, once the field at path is called that."""
    changed = copy.deepcopy(manifest)
    parent = at(changed, path[:-1])
    parent[wrong] = parent.pop(path[-1])
    errors = list(jsonschema.Draft202012Validator(schema).iter_errors(changed))
    assert any(f"'{wrong}' was unexpected" in error.message for error in errors)


# --- the RayJob


def test_kuberay_accepts_the_ray_job(ray_job: dict[str, Any]) -> None:
    accept(ray_job, RAY_JOB)


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        (("spec", "entrypoint"), "entryPoint"),
        (("spec", "runtimeEnvYAML"), "runtimeEnvYaml"),
        (("spec", "shutdownAfterJobFinishes"), "shutdownAfterJobFinished"),
        ((*CLUSTER, "enableInTreeAutoscaling"), "enableAutoscaling"),
        ((*CLUSTER, "autoscalerOptions", "idleTimeoutSeconds"), "idleTimeoutMinutes"),
        ((*CLUSTER, "headGroupSpec", "rayStartParams"), "rayStartParam"),
        ((*CPU_GROUP, "maxReplicas"), "maxWorkers"),
        ((*HEAD_POD, "nodeSelector"), "nodeselector"),
        ((*HEAD_POD, "containers", 0, "resources", "limits"), "limit"),
        ((*HEAD_POD, "containers", 0, "securityContext", "capabilities"), "capability"),
    ],
)
def test_a_misspelled_field_of_the_ray_job_is_refused(
    ray_job: dict[str, Any], path: tuple[str | int, ...], wrong: str
) -> None:
    refuse_renamed(ray_job, RAY_JOB, path, wrong)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("apiVersion",), "ray.io/v1alpha1"),
        (("metadata", "name"), "Audioclf_extract"),
        (("spec", "backoffLimit"), "1"),
        ((*CLUSTER, "headGroupSpec", "rayStartParams", "num-cpus"), 0),
        ((*CPU_GROUP, "minReplicas"), -1),
        ((*CPU_GROUP, "template"), None),
        ((*HEAD_POD, "containers"), []),
        ((*HEAD_POD, "containers", 0, "resources", "limits", "memory"), "12 GB"),
    ],
)
def test_a_wrong_value_of_the_ray_job_is_refused(
    ray_job: dict[str, Any], path: tuple[str | int, ...], value: Any
) -> None:
    at(ray_job, path[:-1])[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        accept(ray_job, RAY_JOB)


def test_its_head_runs_no_tasks_and_its_workers_start_from_none(ray_job: dict[str, Any]) -> None:
    cluster = at(ray_job, CLUSTER)
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] == group["replicas"] == 0 < group["maxReplicas"]


def test_its_workers_are_those_of_the_cluster_on_aws(ray_job: dict[str, Any]) -> None:
    aws = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    groups = {group["groupName"]: group for group in at(ray_job, CLUSTER)["workerGroupSpecs"]}
    assert {name: group["maxReplicas"] for name, group in groups.items()} == {
        name: aws["available_node_types"][name]["max_workers"] for name in ("cpu", "gpu")
    }
    assert at(ray_job, CLUSTER)["autoscalerOptions"]["idleTimeoutSeconds"] == 60 * aws["idle_timeout_minutes"]
    (gpu,) = groups["gpu"]["template"]["spec"]["containers"]
    assert gpu["resources"]["limits"]["nvidia.com/gpu"] == "1"
    # Work that needs no GPU starts no node that has one.
    assert groups["gpu"]["rayStartParams"] == {"num-cpus": "0"}
    assert aws["available_node_types"]["gpu"]["resources"]["CPU"] == 0


def test_its_ray_is_the_pinned_one(ray_job: dict[str, Any]) -> None:
    pinned = re.search(r"^ray==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert pinned is not None
    assert at(ray_job, (*CLUSTER, "rayVersion")) == pinned[1]


# --- the nightly job


def test_kubernetes_accepts_the_nightly_job(nightly: dict[str, Any]) -> None:
    accept(nightly, CRON_JOB)


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        (("spec", "concurrencyPolicy"), "concurencyPolicy"),
        (("spec", "timeZone"), "timezone"),
        ((*JOB, "podFailurePolicy", "rules", 0, "onExitCodes"), "onExitCode"),
        ((*TAG_POD, "restartPolicy"), "restart"),
        ((*TAG_POD, "containers", 0, "volumeMounts", 0, "mountPath"), "path"),
        ((*TAG_POD, "volumes", 0, "emptyDir", "sizeLimit"), "size"),
    ],
)
def test_a_misspelled_field_of_the_nightly_job_is_refused(
    nightly: dict[str, Any], path: tuple[str | int, ...], wrong: str
) -> None:
    refuse_renamed(nightly, CRON_JOB, path, wrong)


@pytest.mark.parametrize(
    ("path", "value"),
    [(("spec", "concurrencyPolicy"), "forbid"), (("spec", "schedule"), "3:30"), ((*JOB, "template"), {})],
)
def test_a_wrong_value_of_the_nightly_job_is_refused(
    nightly: dict[str, Any], path: tuple[str | int, ...], value: Any
) -> None:
    at(nightly, path[:-1])[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        accept(nightly, CRON_JOB)


def test_nights_do_not_overlap_and_too_many_rejects_are_not_tried_again(nightly: dict[str, Any]) -> None:
    assert nightly["spec"]["concurrencyPolicy"] == "Forbid"
    pod, job = at(nightly, TAG_POD), at(nightly, JOB)
    assert pod["restartPolicy"] == "Never"  # which podFailurePolicy requires
    rule = job["podFailurePolicy"]["rules"][0]
    assert (rule["action"], rule["onExitCodes"]["values"]) == ("FailJob", [3])
    assert rule["onExitCodes"]["containerName"] == pod["containers"][0]["name"]
    assert {mount["name"] for mount in pod["containers"][0]["volumeMounts"]} == {one["name"] for one in pod["volumes"]}


def test_its_retries_outlast_the_lock_of_a_run_that_died(nightly: dict[str, Any]) -> None:
    from audioclf.run_lock import EXPIRY_S

    waits_s = [10 * 2**retry for retry in range(at(nightly, JOB)["backoffLimit"])]  # Kubernetes' own
    assert sum(waits_s) > 2 * EXPIRY_S


# --- both


def test_pods_have_one_image_and_no_rights_of_root(ray_job: dict[str, Any], nightly: dict[str, Any]) -> None:
    groups = [at(ray_job, CLUSTER)["headGroupSpec"], *at(ray_job, CLUSTER)["workerGroupSpecs"]]
    pods = [*(group["template"]["spec"] for group in groups), at(nightly, TAG_POD)]
    uid = re.search(r"^USER (\d+)$", (ROOT / "Containerfile").read_text(), re.MULTILINE)
    assert uid is not None
    for pod in pods:
        assert pod["securityContext"] == {"runAsNonRoot": True, "runAsUser": int(uid[1])}
        assert pod["serviceAccountName"] == "audioclf"
    containers = [container for pod in pods for container in pod["containers"]]
    assert len({container["image"] for container in containers}) == 1
    for container in containers:
        assert not container["image"].endswith(":latest")
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["resources"]["requests"] == container["resources"]["limits"]


def test_no_manifest_holds_a_secret() -> None:
    for path in (ROOT / "deploy").iterdir():
        assert not re.search("SECRET|PASSWORD|ACCESS_KEY|kind: Secret", path.read_text(), re.IGNORECASE)


# --- commands


def commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """The jobs that a text calls: name and flags of each."""
    for line in text.replace("\\\n", " ").splitlines():
        if found := re.search(r"python (?:/app/)?jobs/(\w+)\.py(.*)", line):
            yield found[1], shlex.split(found[2])


def parse(job: str, flags: list[str]) -> Any:
    return tyro.cli(getattr(config, f"{job.capitalize()}Config"), args=flags)


def test_the_jobs_know_every_flag_of_the_documentation() -> None:
    found = list(commands((ROOT / "docs" / "cluster.md").read_text()))
    assert {job for job, _ in found} == {"manifest", "extract", "train", "evaluate", "tag"}
    for job, flags in found:
        parse(job, flags)


def test_the_jobs_know_every_flag_of_the_manifests(ray_job: dict[str, Any], nightly: dict[str, Any]) -> None:
    ((job, flags),) = commands(ray_job["spec"]["entrypoint"])
    assert parse(job, flags).num_actors > 0  # else one worker, since none is there at first
    (container,) = at(nightly, (*TAG_POD, "containers"))
    assert container["command"] == ["python", "/app/jobs/tag.py"]
    parse("tag", container["args"])


def test_a_flag_that_no_job_knows_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    ((job, flags),) = commands("python jobs/extract.py --manifest m \\\n    --output o --num-workers 3")
    with pytest.raises(SystemExit):
        parse(job, flags)


# --- the image

INSTRUCTIONS = {"FROM", "RUN", "COPY", "ENV", "WORKDIR", "USER"}


def instructions(text: str) -> list[tuple[str, str]]:
    """Word and argument of each."""
    lines = "\n".join(line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#"))
    words = [line.split(None, 1) for line in lines.replace("\\\n", " ").splitlines()]
    return [(word, " ".join(rest.split())) for word, rest in words]


def faults(text: str) -> list[str]:
    """What is wrong with a Containerfile, of the things that matter here."""
    found: list[str] = []
    steps = instructions(text)
    runs = [argument for word, argument in steps if word == "RUN"]
    found += [f"instruction {word}" for word, _ in steps if word not in INSTRUCTIONS]
    bases = [argument for word, argument in steps if word == "FROM"]
    if len(bases) != 1 or not re.fullmatch(r"\S+:\d[\w.-]*(@sha256:[0-9a-f]{64})?", bases[0]):
        found.append("base")
    for run in runs:
        if "apt-get install" in run:
            if "apt-get update" not in run or "--no-install-recommends" not in run:
                found.append("apt")
            if not run.endswith("rm -rf /var/lib/apt/lists/*"):
                found.append("apt lists")
        if "pip install" in run:
            if "--require-hashes" not in run or "requirements.lock" not in run:
                found.append("hashes")
            if "--no-cache-dir" not in run:
                found.append("pip cache")
    if not any("rubberband-cli" in run for run in runs):
        found.append("rubberband")
    if not any("pip install" in run for run in runs):
        found.append("packages")
    users = [argument for word, argument in steps if word == "USER"]
    if steps[-1][0] != "USER" or not users[-1].isdigit() or users[-1] == "0":
        found.append("user")
    if not any(f"--uid {users[-1]} " in run for run in runs if users):
        found.append("uid")
    for word, argument in steps:
        if word == "COPY":
            *sources, _ = argument.split()
            found += [f"source {one}" for one in sources if one.startswith("-") or not (ROOT / one).exists()]
    if re.search("SECRET|PASSWORD|TOKEN|ACCESS_KEY", text):
        found.append("secret")
    return found


def test_the_containerfile_is_sound() -> None:
    assert faults((ROOT / "Containerfile").read_text()) == []


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("FROM python:3.11-slim-bookworm", "FROM python:latest", "base"),
        ("FROM python:3.11-slim-bookworm", "FROM python", "base"),
        ("    && rm -rf /var/lib/apt/lists/*", "    && true", "apt lists"),
        ("apt-get update", "true", "apt"),
        ("--require-hashes ", "", "hashes"),
        ("--no-cache-dir ", "", "pip cache"),
        ("rubberband-cli wget", "wget", "rubberband"),
        ("USER 1000", "USER 0", "user"),
        ("USER 1000", "USER root", "user"),
        ("USER 1000", "USER 1001", "uid"),
        ("COPY jobs", "COPY job", "source job"),
        ("WORKDIR", "WORKDIRECTORY", "instruction WORKDIRECTORY"),
        ("PYTHONUNBUFFERED=1", "AWS_SECRET_ACCESS_KEY=x", "secret"),
    ],
)
def test_a_fault_of_the_containerfile_is_found(old: str, new: str, fault: str) -> None:
    text = (ROOT / "Containerfile").read_text()
    changed = re.sub(f"(?m)^(?!#)(.*){re.escape(old)}", lambda found: found[1] + new, text)
    assert changed != text
    assert fault in faults(changed)


def test_the_build_gets_no_more_of_the_checkout_than_is_copied() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        argument.split()[0] for word, argument in instructions((ROOT / "Containerfile").read_text()) if word == "COPY"
    }
    assert kept == copied


def test_the_image_knows_what_audioclf_requires(tmp_path: Path) -> None:
    """Its files alone, in which no distribution is installed."""
    for source, target in re.findall(r"^COPY (\S+) /app/(\S+)$", (ROOT / "Containerfile").read_text(), re.MULTILINE):
        put: Any = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
        put(ROOT / source, tmp_path / target)
    code = """if True:
        import importlib.metadata as metadata
        def distribution(name): raise metadata.PackageNotFoundError(name)
        metadata.distribution = distribution
        from audioclf import doctor
        print(doctor.__file__, doctor.python_version().status)
    """
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == [str(tmp_path / "audioclf" / "doctor.py"), "ok"], done.stderr
