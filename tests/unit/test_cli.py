"""Exit codes: 0 success, 2 bad usage, 3 too many rejects, 130 interrupted, 1 anything else audioclf raises."""

import json
import logging
import os
import signal
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from audioclf import cli
from audioclf.errors import CheckpointMismatchError, ConfigError, SchemaError, StorageError, TrainingError


@dataclass(frozen=True)
class Flags:
    """Flags of a job."""

    number: int = 1
    """Any number."""
    some_names: tuple[str, ...] = ()
    """Any names."""


@pytest.fixture
def exit_code(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., int]]:
    """Runs a job with a pipeline made from a function, and gives its exit code."""
    before = signal.getsignal(signal.SIGTERM)

    def run(pipeline: Callable[[Flags], str], *flags: str) -> int:
        module = types.ModuleType("audioclf.pipelines.of_a_test")
        monkeypatch.setattr(module, "run", pipeline, raising=False)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setattr(sys, "argv", ["job", *flags])
        return cli.run(Flags, "of_a_test", None)

    yield run
    signal.signal(signal.SIGTERM, before)


def raising(error: BaseException) -> Callable[[Flags], str]:
    def pipeline(config: Flags) -> str:
        raise error

    return pipeline


def test_the_flags_reach_the_pipeline(exit_code: Callable[..., int]) -> None:
    seen: list[Flags] = []

    def pipeline(config: Flags) -> str:
        seen.append(config)
        return "ok"

    assert exit_code(pipeline, "--number", "7") == 0
    assert seen == [Flags(7)]


def test_a_job_that_finds_something_wrong_fails(exit_code: Callable[..., int]) -> None:
    assert exit_code(lambda config: "failed") == 1


def test_too_many_rejects_have_a_code_of_their_own(exit_code: Callable[..., int]) -> None:
    assert exit_code(lambda config: "too_many_rejects") == 3


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (ConfigError("--folds: too few"), 2, "error: --folds: too few"),
        (CheckpointMismatchError("hop_length 1024 against 320"), 2, "error: hop_length 1024 against 320"),
        (StorageError("no route"), 1, "error: StorageError: no route"),
        (SchemaError("not a shard"), 1, "run the same command again"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_an_error_becomes_a_code_and_a_message(
    exit_code: Callable[..., int], caplog: pytest.LogCaptureFixture, error: BaseException, code: int, says: str
) -> None:
    with caplog.at_level(logging.ERROR, "audioclf"):
        assert exit_code(raising(error)) == code
    assert says in caplog.text
    assert "Traceback" not in caplog.text


def test_what_would_fail_again_is_not_to_be_tried_again(
    exit_code: Callable[..., int], caplog: pytest.LogCaptureFixture
) -> None:
    assert exit_code(raising(TrainingError("the loss is nan"))) == 1
    assert "the loss is nan" in caplog.text
    assert "again" not in caplog.text


def test_the_signal_of_a_stopped_job_is_an_interruption(exit_code: Callable[..., int]) -> None:
    def pipeline(config: Flags) -> str:
        signal.raise_signal(signal.SIGTERM)
        return "ok"

    assert exit_code(pipeline) == 130


def test_logs_for_programs_are_an_object_a_line() -> None:
    record = logging.LogRecord("audioclf", logging.WARNING, "", 0, 'two\nlines, "%s"', ("é",), None)
    record.created = 1_700_000_000.5
    line = cli.JsonLines("tag").format(record)
    assert "\n" not in line
    assert json.loads(line) == {
        "time": "2023-11-14T22:13:20.500+00:00", "level": "warning", "logger": "audioclf", "job": "tag",
        "message": 'two\nlines, "é"',
    }  # fmt: skip


def test_an_unknown_flag_is_bad_usage(exit_code: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        exit_code(lambda config: "ok", "--numbre", "7")
    assert stopped.value.code == 2
    assert "--numbre" in capsys.readouterr().err


@pytest.mark.parametrize("again", ["--some-names=c", "--some-names c", "--some_names c"])
def test_a_flag_of_several_values_is_given_once(
    exit_code: Callable[..., int], caplog: pytest.LogCaptureFixture, again: str
) -> None:
    """Of others the last counts, so that scripts can have defaults."""
    seen: list[Flags] = []

    def pipeline(config: Flags) -> str:
        seen.append(config)
        return "ok"

    assert exit_code(pipeline, "--number", "7", "--some-names", "a", "b", "--number", "8") == 0
    assert seen == [Flags(8, ("a", "b"))]
    assert exit_code(pipeline, "--some-names", "a", *again.split()) == 2
    assert "--some-names is given twice; give all its values in a row" in caplog.text


def test_a_defect_is_not_hidden(exit_code: Callable[..., int]) -> None:
    with pytest.raises(ZeroDivisionError):
        exit_code(raising(ZeroDivisionError()))


def test_help_may_be_read_in_part() -> None:
    ends, begins = os.pipe()
    os.close(ends)  # as `head` does, but surely before the help is printed
    job = "from audioclf import cli; from audioclf.config import TagConfig; cli.run(TagConfig, 'tag', None)"
    with os.fdopen(begins, "wb") as closed:
        done = subprocess.run([sys.executable, "-c", job, "--help"], stdout=closed, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
