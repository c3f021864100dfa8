"""Checkpoints: safetensors weights and a JSON file that says all one needs to use them. Nothing is unpickled."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import safetensors.torch
import torch
import xxhash
from safetensors import SafetensorError

from audioclf import models, rundir, storage
from audioclf.audio import pcm
from audioclf.audio.frontend import FrontEnd, get_front_end
from audioclf.audio.pcm import AnyFrontEnd, Pcm
from audioclf.errors import CheckpointMismatchError, ClipError, ConfigError, SchemaError
from audioclf.labels import Vocabulary
from audioclf.models import Network, pretrained
from audioclf.models.pretrained import Published

FOLDER, WEIGHTS, DESCRIPTION = "checkpoint", "model.safetensors", "checkpoint.json"
VERSION = "1"

WEIGHTS_FILES = (".pt", ".pth")
"""What files of published weights end in."""


@dataclass(frozen=True)
class Checkpoint:
    """A trained network and what it was trained on.

    Attributes:
        network: in evaluation mode.
        name: of the network.
        front_end: of the pictures it takes.
        vocabulary: its outputs.
        segment_s: seconds in the segments it was trained on.
        training: configuration, folds left out, and the like, for people.
        metrics: of its training.
        thresholds: from which probability on each class counts as heard, None for one without; None: not learned.
    """

    network: Network
    name: str
    front_end: FrontEnd
    vocabulary: Vocabulary
    segment_s: float
    training: dict[str, Any]
    metrics: dict[str, Any]
    thresholds: tuple[float | None, ...] | None = None

    def save(self, uri: str) -> None:
        """Write the two files into a folder; the description last, so that it marks the whole."""
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in self.network.state_dict().items()}
        storage.write_bytes(storage.join(uri, WEIGHTS), safetensors.torch.save(state))
        thresholds = None if self.thresholds is None else _by_class(self.vocabulary.names, self.thresholds)
        description = {
            "version": VERSION,
            "model": self.name,
            "front_end": self.front_end.to_dict(),
            "vocabulary": asdict(self.vocabulary),
            "segment_s": self.segment_s,
            "training": self.training,
            "metrics": self.metrics,
            "thresholds": thresholds,
        }
        _write_description(uri, description)

    def lineage(self) -> list[dict[str, Any]]:
        """The trainings on shards that the weights have been through, the latest first: of each the `manifests`, and
        the `test_fold` that it left out. A published network has been through none."""
        if not self.training.get("clips"):
            return []
        latest = {name: self.training.get(name, default) for name, default in (("manifests", []), ("test_fold", None))}
        return [latest, *self.training.get("before", [])]

    def weights_digest(self) -> str:
        """Tells two trainings of one network apart."""
        hasher = xxhash.xxh3_128()
        for name, tensor in sorted(self.network.state_dict().items()):
            hasher.update(name.encode())
            hasher.update(tensor.contiguous().numpy().tobytes())
        return hasher.hexdigest()

    def require_front_end(self, other: AnyFrontEnd, where: str) -> None:
        """Raise CheckpointMismatchError unless `other` makes what the network was trained on, or keeps waveforms of its
        rate, which its own front end makes that of.
        """
        if isinstance(other, Pcm) and other.sample_rate == self.front_end.sample_rate:
            return
        if difference := pcm.differences(self.front_end, other):
            raise CheckpointMismatchError(f"front end of the checkpoint against that of {where}: {difference}")


def find(path_or_uri: str, name: str | None = None) -> str:
    """Where the checkpoint is that a user means, as `load` takes it, also in another process.

    Args:
        path_or_uri: a checkpoint folder; the run directory of jobs/train.py; NAME, a published network, which is
            fetched; NAME:FILE, one with its weights in a file; or a .pt or .pth file alone.
        name: of the network that such a file is of.

    Raises:
        ConfigError: there is no such thing.
    """
    is_file = path_or_uri.endswith(WEIGHTS_FILES) and not pretrained.named(path_or_uri)
    if is_file and name in pretrained.PUBLISHED:
        path_or_uri = f"{name}:{path_or_uri}"
    if published := pretrained.named(path_or_uri):
        return _find_published(*published)
    uri = storage.to_uri(path_or_uri)
    for candidate in (uri, storage.join(uri, FOLDER)):
        if storage.exists(storage.join(candidate, DESCRIPTION)):
            return candidate
    begun = rundir.read_json(storage.join(uri, rundir.CONFIG))
    if isinstance(begun, dict) and begun.get("job") == "train":
        raise ConfigError(f"{path_or_uri}: its training has not ended; give the command that began it again, to go on")
    known = ", ".join(pretrained.PUBLISHED)
    if path_or_uri.endswith(WEIGHTS_FILES):
        raise ConfigError(f"{path_or_uri}: weights of which network? Give NAME:{path_or_uri}, NAME one of {known}")
    raise ConfigError(
        f"{path_or_uri}: no checkpoint here ({DESCRIPTION} and {WEIGHTS}); train one with jobs/train.py, or name a "
        f"published network, NAME or NAME:FILE: {known}"
    )


def _find_published(published: Published, file_uri: str | None) -> str:
    if file_uri is None:
        pretrained.fetch(published)
        return published.name
    if not storage.exists(file_uri):
        raise ConfigError(f"{published.name}:{storage.display(file_uri)}: no such file")
    return f"{published.name}:{file_uri}"


def uris(path_or_uri: str) -> list[str]:
    """The paths and URIs that `find` will look for, for storage.reach: none of a published network's name alone."""
    if published := pretrained.named(path_or_uri):
        return [uri for uri in published[1:] if uri]
    return [path_or_uri]


def load(uri: str) -> Checkpoint:
    """Read a checkpoint folder, or a published network: NAME or NAME:FILE.

    Raises:
        SchemaError: a file is missing, damaged or of another version.
        ConfigError: weights of a published network that can't be fetched or read, or are of another.
    """
    if published := pretrained.named(uri):
        return _load_published(*published)
    uri = storage.to_uri(uri)
    description = _read_description(uri)
    try:
        fields, name = description["vocabulary"], description["model"]
        mids = None if fields["mids"] is None else tuple(fields["mids"])
        vocabulary = Vocabulary(tuple(fields["names"]), fields["multi_label"], mids)
        front_end = FrontEnd.from_dict(description["front_end"])
        segment_s = float(description["segment_s"])
        training, metrics = description["training"], description["metrics"]
        thresholds = _thresholds(description.get("thresholds"), vocabulary)
        network = models.build(name, front_end.n_features, len(vocabulary))
    except ConfigError:  # no such network here, as where a package is not installed
        raise
    # RuntimeError, ValueError: of numbers that no network can have
    except (KeyError, TypeError, ValueError, RuntimeError, SchemaError) as error:
        raise SchemaError(f"{storage.display(uri)}/{DESCRIPTION}: not a checkpoint's description: {error}") from error
    network.load_state_dict(_read_weights(uri, network))
    return Checkpoint(network.eval(), name, front_end, vocabulary, segment_s, training, metrics, thresholds)


def write_thresholds(uri: str, thresholds: Sequence[float | None]) -> None:
    """Put other thresholds into a checkpoint folder's description, and leave all else as it is.

    Args:
        uri: of the folder.
        thresholds: [C], None for a class without.

    Raises:
        SchemaError: no checkpoint.
        StorageError: it can't be written.
    """
    uri = storage.to_uri(uri)
    description = _read_description(uri)
    _write_description(uri, {**description, "thresholds": _by_class(description["vocabulary"]["names"], thresholds)})


def _by_class(names: Sequence[str], thresholds: Sequence[float | None]) -> dict[str, float | None]:
    return dict(zip(names, thresholds, strict=True))


def _read_description(uri: str) -> dict[str, Any]:
    description = rundir.read_json(storage.join(uri, DESCRIPTION))
    if not isinstance(description, dict) or description.get("version") != VERSION:
        raise SchemaError(f"{storage.display(uri)}: no checkpoint of version {VERSION}")
    return description


def _write_description(uri: str, description: dict[str, Any]) -> None:
    text = json.dumps(description, indent=2, sort_keys=True) + "\n"
    storage.write_bytes(storage.join(uri, DESCRIPTION), text.encode())


def _thresholds(of_class: Any, vocabulary: Vocabulary) -> tuple[float | None, ...] | None:
    """In the vocabulary's order, from {class: value or null}; None of None, as in a description without them."""
    if of_class is None:
        return None
    if not isinstance(of_class, dict) or of_class.keys() != set(vocabulary.names):
        raise SchemaError("thresholds: not one for each class of the vocabulary")
    for name, value in of_class.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and not (is_number and 0 <= value <= 1):
            raise SchemaError(f"thresholds: {name}: {value!r} is neither null nor a number from 0 to 1")
    return tuple(of_class[name] for name in vocabulary.names)


def _load_published(published: Published, file_uri: str | None) -> Checkpoint:
    """One trained on AudioSet, with its 527 classes."""
    network = pretrained.load(published, file_uri)
    front_end, training = get_front_end(published.front_end), {"published": published.url}
    classes = pretrained.vocabulary()
    return Checkpoint(network, published.network, front_end, classes, pretrained.SEGMENT_S, training, {})


def _read_weights(uri: str, network: Network) -> dict[str, torch.Tensor]:
    weights_uri = storage.join(uri, WEIGHTS)
    try:
        state = safetensors.torch.load(storage.read_bytes(weights_uri))
    except (ClipError, SafetensorError) as error:
        raise SchemaError(f"{storage.display(weights_uri)}: can't be read: {error}") from error
    wanted = {name: tensor.shape for name, tensor in network.state_dict().items()}
    if {name: tensor.shape for name, tensor in state.items()} != wanted:
        raise SchemaError(f"{storage.display(weights_uri)}: not the weights of the network its description names")
    return state


def load_for(path_or_uri: str, name: str | None = None) -> Checkpoint:
    """`load(find(…))` for the driver: a damaged checkpoint named by the user is a ConfigError."""
    try:
        return load(find(path_or_uri, name))
    except SchemaError as error:
        raise ConfigError(str(error)) from error
