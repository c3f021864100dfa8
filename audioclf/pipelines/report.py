"""A run directory of any job → one HTML file. Without Ray: it is the work of one process."""

import logging

from audioclf import rundir, storage, tag_results
from audioclf.config import ReportConfig
from audioclf.errors import ConfigError
from audioclf.report import extraction, page, tags, training
from audioclf.report.page import Section
from audioclf.rundir import RunDirectory
from audioclf.tag_results import RUNS, TagRun

log = logging.getLogger("audioclf")

REPORT = "report.html"

TITLES = {
    "extract": "Extraction",
    "train": "Training",
    "crossval": "Cross-validation",
    "evaluate": "Evaluation",
    "policy": "Augmentation policy",
    "tag": "Tags",
}
"""Of the jobs whose runs there is something to see of."""


def run(config: ReportConfig) -> str:
    """Look at a run, and write what there is to see."""
    storage.reach(config.run)
    directory = RunDirectory(config.run)
    job, sections = _sections(directory)
    html = page.render(f"audioclf: {TITLES[job]}", str(directory), sections)
    output = storage.to_uri(config.output) if config.output else directory.at(REPORT)
    storage.write_bytes(output, html.encode())
    log.info("report: wrote %s (%.1f MB): open it in a browser", storage.display(output), len(html) / 1e6)
    return "ok"


def _sections(directory: RunDirectory) -> tuple[str, list[Section]]:
    """The job that made a run, and what there is to see of it.

    Raises:
        ConfigError: not a run directory, or of a job that leaves nothing to see.
    """
    made = directory.config()
    if made is None:
        return "tag", _one_night(directory)
    job = made["job"]
    if job == "extract":
        return job, extraction.sections(directory)
    if job == "tag":
        runs = tags.closed(tag_results.runs_of(directory), directory)
        return job, tags.sections(runs[-1], runs)
    if job not in TITLES:
        raise ConfigError(f"{directory}: a run of jobs/{job}.py: there are no reports of those")
    return job, training.sections(directory, job)


def _one_night(directory: RunDirectory) -> list[Section]:
    """Of a run directory in the output of jobs/tag.py."""
    output, _, name = directory.uri.rpartition(f"/{RUNS}/")
    one = TagRun(directory, name)
    if not output or not one.is_closed():
        raise ConfigError(f"--run {directory}: not a run directory of a job: no {rundir.CONFIG} in it")
    return tags.sections(one, tags.closed(tag_results.runs_of(RunDirectory(output)), RunDirectory(output)))
