"""What every job does around its pipeline: parse flags, log, turn the outcome into an exit code."""

import importlib
import json
import logging
import os
import signal
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from types import FrameType
from typing import Any, get_origin, get_type_hints

import tyro

from audioclf.config import recipes
from audioclf.errors import AudioclfError, CheckpointMismatchError, ConfigError

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_REJECTS, EXIT_INTERRUPTED = 0, 1, 2, 3, 130
LOG_FORMAT = "AUDIOCLF_LOG"
"""Variable: `json` for logs that programs read."""

EXIT_CODES = {"ok": EXIT_OK, "failed": EXIT_FAILED, "too_many_rejects": EXIT_REJECTS}
"""Of what a pipeline's run gives."""

log = logging.getLogger("audioclf")


def run(config_type: type, pipeline: str, description: str | None) -> int:
    """Parse the command line, run a pipeline on it and return the process's exit code.

    Args:
        config_type: the job's dataclass; its fields are the flags.
        pipeline: module of audioclf.pipelines whose run(config) gives the status, one of EXIT_CODES. By name, so
            that --help and a wrong flag need not wait for Ray.
        description: for --help.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_formatter(pipeline))
    logging.basicConfig(handlers=[handler])
    log.setLevel(logging.INFO)  # libraries: warnings only
    signal.signal(signal.SIGTERM, _interrupt)  # what `ray job stop` sends
    try:
        config = _parse(config_type, description)
        status = importlib.import_module(f"audioclf.pipelines.{pipeline}").run(config)
    except (ConfigError, CheckpointMismatchError) as error:  # the same command can't go on
        log.error("error: %s", error)
        return EXIT_USAGE
    except AudioclfError as error:
        log.error("error: %s: %s", type(error).__name__, error)
        if error.may_go_on:
            log.error("What is done is kept: run the same command again to go on.")
        return EXIT_FAILED
    except KeyboardInterrupt:
        log.error("interrupted. What is done is kept: run the same command again to go on.")
        return EXIT_INTERRUPTED
    return EXIT_CODES[status]


def _parse(config_type: type, description: str | None) -> Any:
    _require_lists_in_one(config_type, sys.argv[1:])
    try:
        return tyro.cli(config_type, description=description, default=recipes.defaults(config_type, sys.argv[1:]))
    except BrokenPipeError:  # --help into a program that has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it once more when it ends
        sys.exit(EXIT_OK)


def _require_lists_in_one(config_type: type, arguments: Sequence[str]) -> None:
    """Refuse a flag of several values that is given twice: as of any flag the last counts, the others were lost."""
    lists = [name for name, hint in get_type_hints(config_type).items() if get_origin(hint) is tuple]
    given = [word.split("=")[0].replace("_", "-") for word in arguments]
    for flag in ("--" + name.replace("_", "-") for name in lists):
        if given.count(flag) > 1:
            raise ConfigError(f"{flag} is given twice; give all its values in a row: {flag} A B")


class JsonLines(logging.Formatter):
    """A JSON object a line, for programs that collect logs: time (UTC), level, logger, job, message.

    Args:
        job: that logs.
    """

    def __init__(self, job: str):
        super().__init__()
        self._job = job

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "job": self._job,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def _formatter(job: str) -> logging.Formatter:
    if os.environ.get(LOG_FORMAT) == "json":
        return JsonLines(job)
    return logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S")


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
