"""Run directories: config.json, data/, rejects/, summary.json, _SUCCESS."""

import json
import logging
from collections.abc import Iterable
from typing import Any

import xxhash

from audioclf import storage
from audioclf.errors import ConfigError, MissingClipError, SchemaError

log = logging.getLogger("audioclf")

DATA, REJECTS = "data", "rejects"
"""Folders of what units of work commit."""

CONFIG, SUMMARY, SUCCESS = "config.json", "summary.json", "_SUCCESS"
METRICS, PREDICTIONS = "metrics.json", "predictions.parquet"
"""Of trainings and measurements."""
TRAININGS, POLICIES = "trainings", "policies"
"""Folders of a cross-validation, and of a policy that is learned."""


def config_digest(binding: dict[str, Any]) -> str:
    """A digest of what a run's output depends on."""
    return xxhash.xxh3_128_hexdigest(json.dumps(binding, sort_keys=True).encode())


class RunDirectory:
    """A directory that one configuration fills, in one run or several.

    Raises:
        ConfigError: there is a file of that name.
    """

    def __init__(self, uri: str):
        self.uri = storage.to_uri(uri)
        path = storage.local_path(self.uri)
        if path is not None and path.exists() and not path.is_dir():
            raise ConfigError(f"{self}: is a file, and should be a directory")

    def __str__(self) -> str:
        return storage.display(self.uri)

    def at(self, *names: str) -> str:
        """The URI of something inside."""
        return storage.join(self.uri, *names)

    def config(self) -> dict[str, Any] | None:
        """What it was begun with: `job`, `binding` and `flags`; None where nothing has begun.

        Raises:
            ConfigError: the file of that name is another program's.
        """
        found = read_json(self.at(CONFIG))
        if found is not None and not (isinstance(found, dict) and found.keys() >= {"job", "binding", "flags"}):
            raise ConfigError(f"{self}: the {CONFIG} there is not audioclf's; give another directory")
        return found

    def bind(self, job: str, binding: dict[str, Any], flags: dict[str, Any]) -> None:
        """Begin the directory, or make sure that it was begun with the same configuration.

        Args:
            job: the job's name.
            binding: all that the output depends on.
            flags: the rest of the resolved configuration.

        Raises:
            ConfigError: it was begun by another job or configuration; the differences are named.
        """
        if not self.require(job, binding):
            self.write_json(CONFIG, {"job": job, "binding": binding, "flags": flags})

    def require(self, job: str, binding: dict[str, Any]) -> bool:
        """Whether the directory was begun, and if so by the same job and configuration; see `bind`."""
        found = self.config()
        if found is None:
            return False
        if found["job"] != job:
            raise ConfigError(f"{self}: holds a run of jobs/{found['job']}.py; give another --output")
        before, now = found["binding"], json.loads(json.dumps(binding))
        if differences := _differences(before, now):
            raise ConfigError(
                f"{self}: was begun with another configuration: {'; '.join(differences)}. "
                "Give another --output, or the configuration it was begun with."
            )
        return True

    def committed(self, folder: str) -> set[str]:
        """The names of the files in one of its folders."""
        return set(storage.names_in(self.at(folder)))

    def committed_rejects(self) -> list[str]:
        """URIs of the rejects of the units that are committed, by name; without a data file they count for nothing."""
        return [self.at(REJECTS, name) for name in sorted(self.committed(REJECTS) & self.committed(DATA))]

    def is_complete(self) -> bool:
        return storage.exists(self.at(SUCCESS))

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        storage.write_bytes(self.at(name), (json.dumps(content, indent=2, sort_keys=True) + "\n").encode())

    def finish(self, summary: dict[str, Any]) -> None:
        """Write the summary, and _SUCCESS if its status is ok."""
        self.write_json(SUMMARY, summary)
        if summary["status"] == "ok":
            storage.write_bytes(self.at(SUCCESS), b"")
        else:
            storage.remove(self.at(SUCCESS))


def bindings(run_uris: Iterable[str]) -> list[str]:
    """What identifies extractions, wherever they lie: digests of the configurations that made them.

    Raises:
        ConfigError: one is not a run directory of an extraction, or holds only a part of it.
    """
    return [_binding_of_extraction(RunDirectory(uri)) for uri in run_uris]


OF_CONTENT = {
    "manifest_digest": "the manifest names other clips, labels or folds",
    "units": "the units of work are others",
    "shards": "the shards are others",
    "weights": "the weights are others",
    "init_weights": "the weights to start from are others",
}
"""What it means that a digest differs."""


_MANY = 20
"""Values in two lists that are too many to be told."""


def _differences(before: dict[str, Any], now: dict[str, Any], of: str = "") -> list[str]:
    """In what two configurations differ, in words: of front ends and the like, the fields."""
    words = []
    for key in sorted(before.keys() | now.keys()):
        was, there_now = before.get(key), now.get(key)
        if was == there_now:
            continue
        if key in OF_CONTENT and key in before and key in now:
            words.append(OF_CONTENT[key])
        elif isinstance(was, dict) and isinstance(there_now, dict):
            words += _differences(was, there_now, f"{of}{key}.")
        elif isinstance(was, list) and isinstance(there_now, list) and len(was) + len(there_now) > _MANY:
            words.append(f"{of}{key} has other values")
        else:
            words.append(f"{of}{key} was {was!r} and is now {there_now!r}")
    return words


def manifests(run_uris: Iterable[str]) -> list[str]:
    """What identifies the manifests that extractions were made of: folds of one are folds of another only if it is the
    same. Sorted, each once.
    """
    found = (RunDirectory(uri).config() or {} for uri in run_uris)
    return sorted({config["binding"]["manifest_digest"] for config in found if config.get("job") == "extract"})


def _binding_of_extraction(directory: RunDirectory) -> str:
    found = directory.config()
    if found is None or found["job"] != "extract":
        raise ConfigError(f"{directory}: not a run directory of jobs/extract.py")
    binding = found["binding"]
    planned = int(binding["units"].split(",")[0])  # "N, digest …"
    committed = sum(name.endswith(".parquet") for name in directory.committed(DATA))
    if committed < planned:
        raise ConfigError(
            f"{directory}: the extraction has not ended: {committed:,} of its {planned:,} units are there; give the "
            "same command to jobs/extract.py again, which does the rest"
        )
    if not directory.is_complete():
        log.warning("%s: its extraction did not end well, see %s there: clips may be lacking", directory, SUMMARY)
    return config_digest(binding)


def read_json(uri: str) -> dict[str, Any] | None:
    """A JSON file's content, None if there is no such file.

    Raises:
        SchemaError: not JSON.
    """
    try:
        return json.loads(storage.read_bytes(uri))
    except MissingClipError:
        return None
    except ValueError as error:
        raise SchemaError(f"{storage.display(uri)}: not JSON: {error}") from error
