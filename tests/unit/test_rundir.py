"""Run directories: one configuration each, and whole ones alone to train on."""

import json
import logging
from pathlib import Path

import pytest

from audioclf import rundir, storage
from audioclf.errors import ConfigError, SchemaError
from audioclf.rundir import RunDirectory


def test_a_directory_keeps_to_the_configuration_it_was_begun_with(tmp_path: Path) -> None:
    directory = RunDirectory(str(tmp_path / "run"))
    directory.bind("extract", {"a": 1, "b": [1, 2]}, {})
    directory.bind("extract", {"a": 1, "b": (1, 2)}, {"other": "flag"})
    with pytest.raises(ConfigError, match="a was 1 and is now 2"):
        directory.bind("extract", {"a": 2, "b": [1, 2]}, {})
    with pytest.raises(ConfigError, match=r"holds a run of jobs/extract\.py"):
        directory.bind("train", {}, {})


def test_what_differs_is_told_field_by_field_and_digests_in_words(tmp_path: Path) -> None:
    directory = RunDirectory(str(tmp_path / "run"))
    begun = {
        "front_end": {"name": "x", "n_mels": 64, "deep": {"a": 1}},
        "manifest_digest": "0f",
        "units": "1, digest 7",
    }
    directory.bind("extract", begun, {})
    now = {"front_end": {"name": "x", "n_mels": 128, "deep": {"a": 2}}, "manifest_digest": "1f", "units": "1, digest 7"}
    with pytest.raises(ConfigError) as told:
        directory.require("extract", now)
    assert (
        "another configuration: front_end.deep.a was 1 and is now 2; front_end.n_mels was 64 and is now 128; "
        "the manifest names other clips, labels or folds. Give"
    ) in str(told.value)


@pytest.mark.parametrize("content", ['{"model_type": "wav2vec2"}', "[1]"])
def test_another_programs_configuration_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ConfigError, match=r"config\.json there is not audioclf's"):
        RunDirectory(str(tmp_path)).bind("extract", {}, {})
    with pytest.raises(ConfigError, match=r"config\.json there is not audioclf's"):
        rundir.bindings([str(tmp_path)])


def test_a_file_is_no_run_directory(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(ConfigError, match="/run: is a file, and should be a directory"):
        RunDirectory(str(tmp_path / "run"))


def test_success_marks_an_ok_status_alone(tmp_path: Path) -> None:
    directory = RunDirectory(str(tmp_path))
    directory.finish({"status": "ok"})
    assert directory.is_complete()
    directory.finish({"status": "too_many_rejects"})
    assert not directory.is_complete()
    assert json.loads((tmp_path / "summary.json").read_text()) == {"status": "too_many_rejects"}


def test_an_unreadable_file_names_itself(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(SchemaError, match=r"config\.json: not JSON"):
        RunDirectory(str(tmp_path)).bind("extract", {}, {})


def test_a_part_of_an_extraction_is_nothing_to_train_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    directory = RunDirectory(str(tmp_path))
    directory.bind("extract", {"units": "2, digest 0"}, {})
    storage.write_bytes(directory.at("data", "unit-0000000.parquet"), b"")
    with pytest.raises(ConfigError, match=r"1 of its 2 units are there; give the same command"):
        rundir.bindings([str(tmp_path)])
    storage.write_bytes(directory.at("data", "unit-0000001.parquet"), b"")
    with caplog.at_level(logging.WARNING, "audioclf"):
        before = rundir.bindings([str(tmp_path)])
        assert "did not end well" in caplog.text
        caplog.clear()
        directory.finish({"status": "ok"})
        assert rundir.bindings([str(tmp_path)]) == before
    assert not caplog.records


@pytest.mark.parametrize("job", [None, "train"])
def test_what_is_no_extraction_is_nothing_to_train_on(tmp_path: Path, job: str | None) -> None:
    if job:
        RunDirectory(str(tmp_path)).bind(job, {}, {})
    with pytest.raises(ConfigError, match=r"not a run directory of jobs/extract\.py"):
        rundir.bindings([str(tmp_path)])
