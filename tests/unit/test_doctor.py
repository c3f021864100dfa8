"""The doctor's checks: what is wrong is found, named, and has a remedy."""

import importlib.metadata
import logging
import os
import platform
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from audioclf import doctor, machine, s3, storage
from audioclf.audio import rubberband
from audioclf.config import DoctorConfig
from audioclf.doctor import Finding
from audioclf.errors import ConfigError
from audioclf.pipelines import doctor as pipeline
from audioclf.s3 import Patience
from tests import fault_proxy
from tests.fault_proxy import Fault, FaultProxy


@pytest.fixture
def required(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets what audioclf requires."""

    def require(*packages: str, python: str = ">=3.11") -> None:
        monkeypatch.setattr(doctor, "_requirements", lambda: (python, list(packages)))

    return require


@pytest.fixture
def broken_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Puts a module in place of an installed one, in processes started from now on."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def put(name: str, code: str) -> None:
        tmp_path.joinpath(f"{name}.py").write_text(code)

    return put


def check_failed(finding: Finding, *says: str, remedy: str) -> None:
    assert finding.status == "failed"
    for words in says:
        assert words in finding.found
    assert remedy in finding.remedy


# --- Python and packages


def test_this_environment_has_what_is_required(required: Callable[..., None]) -> None:
    assert doctor.python_version().status == "ok"
    required("numpy>=2.0", "pyyaml>=6", "scikit-learn", 'timm>=99; extra == "timm"')
    assert doctor.packages() == Finding("packages", "ok", "3 of the versions required; all can be imported")


def test_another_python_is_told(required: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "python_version", lambda: "3.9.18")
    check_failed(doctor.python_version(), "3.9.18", ">=3.11", remedy="make setup PYTHON=")


def test_packages_that_are_missing_or_of_other_versions_are_named(required: Callable[..., None]) -> None:
    required("audioclf-lacks-this>=1", "numpy>=99", "tyro>=1.0")
    version = importlib.metadata.version("numpy")
    check_failed(
        doctor.packages(), "audioclf-lacks-this is missing", f"numpy is {version}, required: >=99", remedy="make setup"
    )


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("raise RuntimeError('no such instruction')", "soxr can't be imported: RuntimeError: no such instruction"),
        ("import os; os.kill(os.getpid(), 9)", "soxr can't be imported: killed by signal 9"),
        ("import os; os._exit(3)", "soxr can't be imported: exit code 3"),
    ],
)
def test_a_package_whose_import_fails_or_crashes_is_named(
    required: Callable[..., None], broken_module: Callable[[str, str], None], code: str, says: str
) -> None:
    required("soxr", "tyro")
    broken_module("soxr", code)
    finding = doctor.packages()
    check_failed(finding, remedy="make setup")
    assert finding.found == says


def test_the_requirements_are_read_from_a_checkout_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", absent)
    python, packages = doctor._requirements()
    assert python == ">=3.11"
    assert "torch==2.11.*" in packages


def test_torch_and_torchaudio_of_two_versions_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", {"torch": "2.11.0+cpu", "torchaudio": "2.10.1"}.__getitem__)
    check_failed(doctor.torch_pair(), "torch 2.11.0+cpu, torchaudio 2.10.1: are not of", remedy="install both together")


def test_torch_and_torchaudio_that_can_t_be_imported_are_told(broken_module: Callable[[str, str], None]) -> None:
    broken_module("torch", "raise OSError('libtorch: undefined symbol')")
    check_failed(
        doctor.torch_pair(),
        "torch with torchaudio can't be imported: OSError: libtorch",
        remedy="install both together",
    )


def test_a_package_that_does_not_fit_is_a_finding() -> None:
    def check() -> Finding:
        raise AttributeError("_ARRAY_API not found")

    check_failed(doctor.examine("gpus", check), "AttributeError: _ARRAY_API not found", remedy="make setup")


# --- The machine


def test_a_missing_rubberband_is_told_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    check_failed(doctor.rubberband_program(), "rubberband program is missing", remedy="apt-get install rubberband-cli")
    monkeypatch.undo()
    assert doctor.rubberband_program().status == "ok"
    rubberband.check.cache_clear()


def test_a_machine_without_gpus_is_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(Path, "exists", lambda path: False)
    finding = doctor.gpus()
    assert (finding.status, finding.remedy) == ("ok", "")
    assert "with --amp this CPU computes in " in finding.found


def test_gpus_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"card {index}")
    assert doctor.gpus() == Finding("gpus", "ok", "2: card 0, card 1")


def test_a_gpu_that_pytorch_can_t_use_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(Path, "exists", lambda path: True)
    finding = doctor.gpus()
    assert (finding.status, finding.remedy) == ("warning", "install a driver for CUDA 12.8")


@pytest.mark.parametrize(
    ("cgroup", "files", "expected"),
    [
        ("0::/a\n", {"cpu.max": "max 100000", "a/cpu.max": "50000 100000"}, [0.5]),
        ("4:cpu,cpuacct:/\n", {"cpu/cpu.cfs_quota_us": "25000", "cpu/cpu.cfs_period_us": "100000"}, [0.25]),
        ("4:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, []),
        ("0::/\n", {}, []),
    ],
)
def test_cpus_that_control_groups_allow(
    tmp_path: Path, cgroup: str, files: dict[str, str], expected: list[float]
) -> None:
    for name, text in {"proc/self/cgroup": cgroup, **{f"sys/fs/cgroup/{name}": files[name] for name in files}}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert machine.cgroup_cpus(tmp_path) == expected
    allowed = min([os.cpu_count() or 1, *expected])
    assert doctor.cpus(tmp_path).found == f"{allowed:g} of {os.cpu_count()}"


def test_little_space_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.main_memory().status == "ok"
    assert doctor.shared_memory(tmp_path / "none").status == "ok"
    monkeypatch.setattr(machine, "available", lambda *_: 10_000_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=3_000_000_000))
    assert doctor.shared_memory(tmp_path).status == "ok"
    disk = doctor.temporary_disk()
    assert (disk.status, disk.found[:11]) == ("warning", "3.0 GB free")
    assert "TMPDIR" in disk.remedy
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=64_000_000))
    shm = doctor.shared_memory(tmp_path)
    assert (shm.status, shm.found[:11]) == ("warning", "0.1 GB free")
    assert "give the container 3.0 GB: docker run --shm-size" in shm.remedy


# --- Stores


def objects_in(bucket: str) -> list[str]:
    return [entry.get("Key", "") for page in s3.pages(f"s3://{bucket}") for entry in page.get("Contents", [])]


@pytest.mark.parametrize("prefix", ["", "/a/b"])
def test_a_bucket_that_works_is_left_as_it_was(s3_bucket: str, prefix: str) -> None:
    uri = f"s3://{s3_bucket}{prefix}"
    assert doctor.store(uri) == Finding(uri, "ok", "contact, list, put, get, delete: all work")
    assert objects_in(s3_bucket) == []


def breaking(operation: str, fault: Fault) -> fault_proxy.FaultFunction:
    """The fault for one of the operations."""

    def choose(index: int, method: str, path: str) -> Fault | None:
        asked = {"PUT": "put", "DELETE": "delete", "HEAD": "contact"}.get(
            method, "list" if "list-type" in path else "get"
        )
        return fault if asked == operation else None

    return choose


@pytest.mark.parametrize("operation", ["list", "put", "get", "delete"])
def test_an_operation_that_is_denied_is_named(proxy: FaultProxy, s3_bucket: str, operation: str) -> None:
    proxy.faults = breaking(operation, fault_proxy.refusal(403, "AccessDenied"))
    finding = doctor.store(f"s3://{s3_bucket}")
    check_failed(finding, f"{operation} fails: AccessDenied", remedy="give them the right to, or use others")
    assert finding.found.count(" fails: ") == 1
    assert len(objects_in(s3_bucket) if operation != "list" else []) == (operation == "delete")


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        ("InvalidAccessKeyId", "check AWS_ACCESS_KEY_ID and AWS_PROFILE"),
        ("SignatureDoesNotMatch", "check AWS_SECRET_ACCESS_KEY"),
        ("ExpiredToken", "renew them"),
    ],
)
def test_credentials_that_are_refused_are_told(proxy: FaultProxy, s3_bucket: str, code: str, remedy: str) -> None:
    proxy.faults = fault_proxy.always(fault_proxy.refusal(403, code))
    check_failed(doctor.store(f"s3://{s3_bucket}"), f"list fails: {code}", f"put fails: {code}", remedy=remedy)


def test_a_store_without_credentials_is_told(s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    s3.client.cache_clear()
    check_failed(doctor.store(f"s3://{s3_bucket}"), "Unable to locate credentials", remedy="set AWS_ACCESS_KEY_ID")


def test_a_bucket_that_is_not_there_is_told(s3_bucket: str) -> None:
    check_failed(doctor.store("s3://no-such-bucket/x"), "no such bucket", remedy="create it, or check its name")


def test_a_store_that_can_t_be_reached_is_told(
    s3_bucket: str, closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{closed_port}")
    monkeypatch.setattr(s3, "FIRST_CONTACT", Patience(total_s=0.1, answer_s=5))
    s3.client.cache_clear()
    check_failed(doctor.store(f"s3://{s3_bucket}"), "the store can't be reached", remedy="check AWS_ENDPOINT_URL")


def test_a_store_that_gives_other_bytes_is_told(proxy: FaultProxy, s3_bucket: str) -> None:
    proxy.faults = breaking("get", Fault(kept=0.5))
    check_failed(
        doctor.store(f"s3://{s3_bucket}"), "get fails: not the bytes that were written", remedy="check the store"
    )
    assert objects_in(s3_bucket) == []


def test_folders_are_written_to_or_their_fault_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=9_000_000_000))
    for path in (tmp_path, tmp_path / "yet" / "to be made"):
        expected = Finding(str(path), "ok", f"9.0 GB free in {tmp_path}")
        assert doctor.store(storage.to_uri(str(path))) == expected
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("x")
    check_failed(
        doctor.store(storage.to_uri(str(tmp_path / "file" / "x"))),
        "can't be written to",
        remedy="choose another folder",
    )


def test_credentials_are_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "geheim\n")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")  # made up, and a letter of every line
    text = doctor.without_secrets("bad header b'geheim\\n' for http://user:pw@host:9/x and s3://bucket/a@b")
    assert text == "bad header b'…\\n' for http://…@host:9/x and s3://bucket/a@b"


# --- Ray


def test_without_an_address_no_cluster_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "run_python", None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert "each job starts a cluster of its own" in pipeline.ray_cluster().found
    assert pipeline.ray_cluster().status == "ok"


def test_a_cluster_that_is_not_there_is_told(closed_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{closed_port}")
    check_failed(pipeline.ray_cluster(), "Connection refused", remedy="check that the cluster runs")


def test_a_cluster_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "CONNECT_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{silent.getsockname()[1]}")
        check_failed(pipeline.ray_cluster(), "no end after", remedy="check that the cluster runs")


def test_a_cluster_of_other_versions_is_told(
    broken_module: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    message = (
        "Version mismatch: The cluster was started with:\n    Ray: 2.1\n    Python: 3.9.1\nThis process was not.\n"
    )
    broken_module("ray", f"raise RuntimeError({message!r})")
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    check_failed(pipeline.ray_cluster(), "Ray: 2.1 Python: 3.9.1 This process was not.", remedy="the same requirements")


# --- All of them


CHECKS = {
    "ok": lambda: Finding("ok", "ok", "fine"),
    "slow": lambda: Finding("slow", "warning", "little\nspace", "free some"),
    "broken": lambda: Finding("broken", "failed", "gone", "fetch it"),
}


@pytest.mark.parametrize(("names", "status"), [(["ok", "slow"], "ok"), (["broken", "ok"], "failed")])
def test_a_failed_check_fails_the_job(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, names: list[str], status: str
) -> None:
    monkeypatch.setattr(pipeline, "_checks", lambda config: {name: CHECKS[name] for name in names})
    with caplog.at_level(logging.INFO, "audioclf"):
        assert pipeline.run(DoctorConfig()) == status
    assert len(caplog.messages) == 4
    assert ("broken  failed   gone" in caplog.messages) == (status == "failed")
    assert ("slow  warning  little space" in caplog.messages) == (status == "ok")


def test_s3_is_mentioned_where_the_environment_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in doctor.STORE_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert "s3" not in pipeline._checks(DoctorConfig())
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "geheim")
    assert "s3" in pipeline._checks(DoctorConfig())
    found = doctor.unasked_store().found
    assert "for AWS_SECRET_ACCESS_KEY: --store s3://bucket/prefix" in found
    assert "geheim" not in found
    assert "s3" not in pipeline._checks(DoctorConfig(store=("s3://bucket",)))


@pytest.mark.parametrize("store", ["gs://bucket", "s3://"])
def test_what_is_no_store_is_bad_usage(store: str) -> None:
    with pytest.raises(ConfigError):
        pipeline.run(DoctorConfig(store=(store,)))
