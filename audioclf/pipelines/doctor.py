"""Checks of this machine, its stores and the Ray cluster → a table in the log.

Ray is imported in a process apart: it may be broken, and waits for minutes for a cluster that is not there.
"""

import importlib.metadata
import logging
from collections.abc import Callable

from audioclf import doctor, s3, storage
from audioclf.config import DoctorConfig
from audioclf.doctor import Finding
from audioclf.pipelines import cluster_address

log = logging.getLogger("audioclf")

CONNECT_S = 20
"""The longest that Ray may take to connect."""

OTHER_VERSIONS = "set up cluster and driver alike: the same requirements.lock and Python"


def run(config: DoctorConfig) -> str:
    """Make all checks, log a line for each, with the remedy where there is something to remedy.

    Returns:
        `failed` if a check did, else `ok`.
    """
    checks = _checks(config)
    width = max(map(len, checks))
    findings: dict[str, Finding] = {}
    for name, check in checks.items():
        if name == "gpus" and findings["torch"].status == "failed":
            continue  # the same fault once more, or a crash
        findings[name] = doctor.examine(name, check)
        _report(findings[name], width)
    statuses = [finding.status for finding in findings.values()]
    failed, warned = statuses.count("failed"), statuses.count("warning")
    log.info("doctor: %d checks: %d failed, %d with a warning", len(findings), failed, warned)
    return "failed" if failed else "ok"


def _checks(config: DoctorConfig) -> dict[str, Callable[[], Finding]]:
    """By name, in the order of the table."""
    checks = {
        "python": doctor.python_version,
        "packages": doctor.packages,
        "torch": doctor.torch_pair,
        "ray": ray_cluster,
        "rubberband": doctor.rubberband_program,
        "gpus": doctor.gpus,
        "cpus": doctor.cpus,
        "memory": doctor.main_memory,
        "shm": doctor.shared_memory,
        "temporary": doctor.temporary_disk,
    }
    uris = [storage.to_uri(text) for text in config.store]
    remote = [uri for uri in uris if storage.local_path(uri) is None]
    for uri in remote:
        s3.split(uri)  # a URI without a bucket is bad usage
    checks |= {storage.display(uri): lambda uri=uri: doctor.store(uri) for uri in uris}
    if not remote and doctor.store_variables():
        checks["s3"] = doctor.unasked_store
    return checks


def _report(finding: Finding, width: int) -> None:
    found, remedy = (" ".join(doctor.without_secrets(text).split()) for text in (finding.found, finding.remedy))
    log.info("%-*s  %-7s  %s", width, finding.name, finding.status, found)
    if remedy:
        log.info("%-*s  %-7s  %s", width, "", "remedy:", remedy)


def ray_cluster() -> Finding:
    """Ray, and the cluster that jobs started here would run on; none is started."""
    version, address = importlib.metadata.version("ray"), cluster_address.named()
    if address is None:
        own = f"no {cluster_address.VARIABLE} is set: each job starts a cluster of its own on this machine"
        return Finding("ray", "ok", f"{version}; {own}")
    resources, fault = "", cluster_address.knock(address)
    if not fault:
        resources, fault = doctor.run_python(f"from {__name__} import contact; contact()", CONNECT_S)
    if not fault:  # Ray refuses to connect to a cluster of another Ray or Python
        return Finding("ray", "ok", f"{version}, and so is the cluster at {address}: {resources}")
    remedy = OTHER_VERSIONS if "Version mismatch" in fault else cluster_address.UNREACHABLE
    where = f"{cluster_address.VARIABLE}={address}"
    return Finding("ray", "failed", f"{version}; no connection to the cluster at {where}: {fault}", remedy)


def contact() -> None:
    """Connect as jobs do, and print what the cluster has. For a process of its own."""
    from audioclf.pipelines import cluster

    cluster.connect()
    print(f"{cluster.cpus()} CPUs, {cluster.gpus()} GPUs")
