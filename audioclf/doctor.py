"""What a machine must have for the jobs: checks that find out, without Ray.

Each check gives a Finding. What may break in ways of its own is imported where it is used, so that a package that is
missing or broken is a finding like any other.
"""

import importlib.metadata
import os
import platform
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from audioclf import machine, s3, storage
from audioclf.errors import AudioclfError, EngineError, StorageError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from packaging.requirements import Requirement

REINSTALL = "install the pinned packages anew: make setup, or requirements.lock by pip or uv"

MODULES = {"pyyaml": "yaml", "scikit-learn": "sklearn"}
"""Of packages whose module has another name."""
TORCH = ("torch", "torchaudio")
IMPORT_S, IMPORTS_AT_ONCE = 120, 4
"""The longest that an import may take: from a cold disk torch needs half a minute."""

BROKEN_PACKAGE = (AudioclfError, ImportError, OSError, AttributeError, RuntimeError, ValueError)
"""What is raised where a package is missing, lacks a library (OSError), or was compiled for another version of one that
it uses (the last three)."""

LOW_DISK_BYTES = 5e9
RAY_SHARE, RAY_MOST_BYTES = 0.3, 200e9
"""Of the memory, what Ray keeps objects in: in /dev/shm, if as much is free there."""

PROBE = ".audioclf-probe-"
"""What the names of the files written to stores begin with: hidden, so that no listing takes them for recordings."""
CONTENT = b"written by audioclf's doctor; may be removed"

SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
SHORTEST_SECRET = 4
"""Characters; what is shorter is none, and stands in many words."""
STORE_VARIABLES = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_PROFILE", *SECRETS)


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        name: of the check.
        status: `warning`: jobs run, slower or not all of them.
        found: in words.
        remedy: what to do about it; "" where all is well.
    """

    name: str
    status: Literal["ok", "warning", "failed"]
    found: str
    remedy: str = ""


def examine(name: str, check: Callable[[], Finding]) -> Finding:
    """What a check finds; one that can't be made, since a package is broken, is a failed one."""
    try:
        return check()
    except BROKEN_PACKAGE as error:
        return Finding(name, "failed", f"{type(error).__name__}: {error}", REINSTALL)


def run_python(code: str, timeout_s: float) -> tuple[str, str]:
    """Run Python code in a process of its own, which may crash or hang.

    Returns:
        What it printed, and how it failed: "" if it did not.
    """
    command = [sys.executable, "-c", code]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired:
        return "", f"no end after {timeout_s:.0f} s"
    if done.returncode < 0:
        return done.stdout, f"killed by signal {-done.returncode}"
    return done.stdout, (_last_error(done.stderr) or f"exit code {done.returncode}") if done.returncode else ""


def _last_error(stderr: str) -> str:
    """The last exception of a traceback, in one line."""
    return " ".join(re.split(r"^(?=[\w.]+: )", stderr, flags=re.MULTILINE)[-1].split())[-400:]


def without_secrets(text: str) -> str:
    """The text less credentials: those of the AWS variables, and those in URLs."""
    values = (os.environ.get(name, "").strip() for name in SECRETS)
    for value in (one for one in values if len(one) >= SHORTEST_SECRET):
        text = text.replace(value, "…")
    return re.sub(r"//[^/@\s]+@", "//…@", text)


# --- Python and packages


def python_version() -> Finding:
    """Python's version, against what audioclf requires."""
    from packaging.specifiers import SpecifierSet

    version, (required, _) = platform.python_version(), _requirements()
    if SpecifierSet(required).contains(version, prereleases=True):
        return Finding("python", "ok", f"{version} (required: {required})")
    return Finding("python", "failed", f"{version}; required: {required}", "make setup PYTHON=/path/to/python3.11")


def packages() -> Finding:
    """Whether the packages that audioclf depends on are there, of versions that it takes, and can be imported.

    PyTorch's are imported by a check of their own.
    """
    required = _required_packages()
    faults = {one.name: fault for one in required if (fault := _version_fault(one))}
    importable = [one.name for one in required if one.name not in faults and one.name not in TORCH]
    with ThreadPoolExecutor(IMPORTS_AT_ONCE) as pool:
        broken = [fault for fault in pool.map(_import_fault, importable) if fault]
    if faults or broken:
        return Finding("packages", "failed", "; ".join([*faults.values(), *broken]), REINSTALL)
    return Finding("packages", "ok", f"{len(required)} of the versions required; all can be imported")


def _requirements() -> tuple[str, list[str]]:
    """What audioclf requires: of Python, and as packages."""
    try:
        ours = importlib.metadata.distribution("audioclf")
        return ours.metadata["Requires-Python"], ours.requires or []
    except importlib.metadata.PackageNotFoundError:  # `ray job submit --working-dir` brings it as a folder
        text = Path(__file__).parents[1].joinpath("pyproject.toml").read_text("utf-8")
        project = tomllib.loads(text)["project"]
        return project["requires-python"], project["dependencies"]


def _required_packages() -> "list[Requirement]":
    """Without those of extras."""
    from packaging.requirements import Requirement

    required = map(Requirement, _requirements()[1])
    return [one for one in required if one.marker is None or one.marker.evaluate({"extra": ""})]


def _version_fault(required: "Requirement") -> str | None:
    try:
        version = importlib.metadata.version(required.name)
    except importlib.metadata.PackageNotFoundError:
        return f"{required.name} is missing"
    if required.specifier.contains(version, prereleases=True):
        return None
    return f"{required.name} is {version}, required: {required.specifier}"


def _import_fault(*packages: str) -> str | None:
    _, fault = run_python(f"import {', '.join(MODULES.get(name, name) for name in packages)}", IMPORT_S)
    return f"{' with '.join(packages)} can't be imported: {fault}" if fault else None


def torch_pair() -> Finding:
    """Whether torch and torchaudio belong together."""
    versions = [importlib.metadata.version(name) for name in TORCH]
    found = ", ".join(f"{name} {version}" for name, version in zip(TORCH, versions, strict=True))
    lines = {tuple(version.split(".")[:2]) for version in versions}
    fault = "are not of one version" if len(lines) > 1 else _import_fault(*TORCH)
    if fault:
        return Finding("torch", "failed", f"{found}: {fault}", f"install both together; {REINSTALL}")
    return Finding("torch", "ok", found)


# --- The machine


def rubberband_program() -> Finding:
    """The program that extract --augment calls."""
    from audioclf.audio import rubberband

    rubberband.check.cache_clear()
    try:
        rubberband.check()
    except EngineError as error:
        return Finding("rubberband", "failed", *_told(error))
    return Finding("rubberband", "ok", f"{shutil.which('rubberband')} runs")


def gpus() -> Finding:
    """GPUs that PyTorch can use, and what --amp is good for without one."""
    import torch

    from audioclf import training

    if count := torch.cuda.device_count():
        names = ", ".join(torch.cuda.get_device_name(index) for index in range(count))
        return Finding("gpus", "ok", f"{count}: {names}")
    kind = "bfloat16" if training.has_bfloat16(torch.device("cpu")) else "float32, since it has no bfloat16 arithmetic"
    cpu = f"with --amp this CPU computes in {kind}"
    if Path("/dev/nvidiactl").exists():
        remedy = f"install a driver for CUDA {torch.version.cuda}" if torch.version.cuda else "install torch for CUDA"
        return Finding("gpus", "warning", f"PyTorch can't use this machine's NVIDIA GPU; {cpu}", remedy)
    return Finding("gpus", "ok", f"none; {cpu}")


def cpus(root: Path = Path("/")) -> Finding:
    """CPUs that this process may use.

    Args:
        root: of the file system with the control groups.
    """
    physical = os.cpu_count() or 1
    allowed = min([physical, *machine.cgroup_cpus(root)])
    return Finding("cpus", "ok", f"{allowed:g} of {physical}")


def main_memory() -> Finding:
    """Memory that this process may use."""
    return Finding("memory", "ok", f"{_gb(_memory_bytes())} of {_gb(machine.physical_bytes())}")


def temporary_disk() -> Finding:
    """Space in the folder of temporary files, where Ray has its own too."""
    remedy = "free some space, or set TMPDIR to a folder on another disk"
    try:
        return _free_space("temporary", Path(tempfile.gettempdir()), remedy)
    except OSError as error:
        return Finding("temporary", "failed", str(error), remedy)


def shared_memory(folder: Path = Path("/dev/shm")) -> Finding:
    """Where Ray keeps its objects (Linux)."""
    if not folder.is_dir():
        return Finding("shm", "ok", f"no {folder} here: Ray keeps its objects in files")
    free_bytes = shutil.disk_usage(folder).free
    wanted_bytes = min(RAY_SHARE * _memory_bytes(), RAY_MOST_BYTES)
    found = f"{_gb(free_bytes)} free in {folder}"
    if free_bytes >= wanted_bytes:
        return Finding("shm", "ok", found)
    remedy = f"give the container {_gb(wanted_bytes)}: docker run --shm-size; Kubernetes: an emptyDir of medium Memory"
    return Finding("shm", "warning", f"{found}; with less than {_gb(wanted_bytes)} Ray is slow", remedy)


def _memory_bytes() -> int:
    return machine.available(machine.physical_bytes(), machine.cgroup_memory())


def _free_space(name: str, folder: Path, remedy: str) -> Finding:
    free_bytes = shutil.disk_usage(folder).free
    found = f"{_gb(free_bytes)} free in {folder}"
    return Finding(name, "warning", found, remedy) if free_bytes < LOW_DISK_BYTES else Finding(name, "ok", found)


def _gb(n_bytes: float) -> str:
    return f"{n_bytes / 1e9:.1f} GB"


# --- Stores


def store(uri: str) -> Finding:
    """Whether jobs can write to a folder or prefix.

    Args:
        uri: s3:// or file://, as storage.to_uri gives it.
    """
    path, name = storage.local_path(uri), storage.display(uri)
    return _bucket(uri, name) if path is None else _folder(name, path)


def store_variables() -> list[str]:
    """The names of the variables about S3 that are set."""
    return [name for name in STORE_VARIABLES if os.environ.get(name)]


def unasked_store() -> Finding:
    """Says how to check S3, where the environment has something about it."""
    return Finding("s3", "ok", f"not checked; for {', '.join(store_variables())}: --store s3://bucket/prefix does")


def _folder(name: str, path: Path) -> Finding:
    try:
        existing = next(folder for folder in (path, *path.parents) if folder.exists())  # jobs make the rest
        with tempfile.TemporaryFile(dir=existing, prefix=PROBE) as file:
            file.write(CONTENT)
            file.flush()
        return _free_space(name, existing, "free some space, or choose a folder on another disk")
    except OSError as error:
        fault = f"can't be written to: {error.strerror or error}"
        return Finding(name, "failed", fault, "let this user write there, or choose another folder")


def _bucket(uri: str, name: str) -> Finding:
    """Whether all four operations work on one small object: each may be refused by itself."""
    works, faults, remedies = [], [], []
    for operation, ask in _operations(uri).items():
        try:
            ask()
            works.append(operation)
        except AudioclfError as error:
            fault, remedy = _told(error, "create it, or check its name and AWS_ENDPOINT_URL")
            faults.append(f"{operation} fails: {fault.removeprefix(uri + ': ')}")
            remedies.append(remedy)
            if operation in ("contact", "put"):  # without it the others can't work
                break
    if not faults:
        return Finding(name, "ok", f"{', '.join(works)}: all work")
    return Finding(name, "failed", "; ".join(faults), "; ".join(dict.fromkeys(remedies)))


def _operations(uri: str) -> dict[str, Callable[[], Any]]:
    """What is asked of a bucket, in order, with little patience."""
    bucket, prefix = s3.split(uri)
    key = "/".join(filter(None, (prefix, PROBE + secrets.token_hex(8))))

    def read(client: "S3Client") -> None:
        if client.get_object(Bucket=bucket, Key=key)["Body"].read() != CONTENT:
            raise StorageError(f"{uri}: not the bytes that were written; check the store")

    def retrying(ask: "Callable[[S3Client], Any]") -> Callable[[], Any]:
        return lambda: s3.retrying(uri, ask, s3.FIRST_CONTACT)

    return {
        "contact": lambda: s3.reach(uri),
        "list": retrying(lambda client: client.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1)),
        "put": retrying(lambda client: client.put_object(Bucket=bucket, Key=key, Body=CONTENT)),
        "get": retrying(read),
        "delete": retrying(lambda client: client.delete_object(Bucket=bucket, Key=key)),
    }


def _told(error: AudioclfError, otherwise: str = "") -> tuple[str, str]:
    """The fault and the remedy that a message has after its last semicolon, as audioclf's have; or else another."""
    fault, semicolon, remedy = str(error).rpartition("; ")
    return (fault, remedy) if semicolon else (remedy, otherwise)
