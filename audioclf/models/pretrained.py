"""Networks trained on AudioSet, as their authors publish them: where they are, fetching them, reading their files."""

import functools
import hashlib
import http.client
import io
import logging
import os
import pickle
import struct
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from audioclf import models, storage
from audioclf.audio.frontend import FrontEnd, get_front_end
from audioclf.errors import ClipError, ConfigError, StorageError
from audioclf.labels import Vocabulary
from audioclf.models.network import Network

log = logging.getLogger("audioclf")

CACHE_VARIABLE, DEFAULT_CACHE = "AUDIOCLF_CACHE", "~/.cache/audioclf"
TIMEOUT_S = 30.0
"""Without a byte from the server."""

CLASSES, N_CLASSES = "audioset_classes.tsv", 527
SEGMENT_S = 10.0
"""AudioSet's clips."""

_PANNS_FRONT_END = ("spectrogram_extractor.", "logmel_extractor.")
_PANNS_MEL = "logmel_extractor.melW"


@dataclass(frozen=True)
class Published:
    """A file of weights."""

    name: str
    """That users know it by."""
    network: str
    front_end: str
    url: str
    digest: str | None
    """ALGORITHM:HEX, as published with the file or taken of a copy; None: not known, and the file is not fetched."""
    layout: Literal["state", "panns"]
    """A state dict; or one under `model`, with the front end's weights, beside what else a training had to keep."""

    @property
    def file_name(self) -> str:
        return urllib.parse.unquote(self.url.rsplit("/", 1)[-1])


_EFFICIENTAT = "https://github.com/fschmid56/EfficientAT/releases/download/v0.0.1/"
_PANNS = "https://zenodo.org/records/3987831/files/"


def _efficientat(name: str, file: str, digest: str | None = None) -> Published:
    return Published(name, name, "efficientat32k", _EFFICIENTAT + file, digest, "state")


def _panns(name: str, file: str, digest: str | None, front_end: str = "panns32k", network: str = "") -> Published:
    return Published(name, network or name, front_end, _PANNS + file, digest, "panns")


PUBLISHED: dict[str, Published] = {
    published.name: published
    for published in (
        _efficientat("mn01", "mn01_as_mAP_298.pt"),
        _efficientat("mn02", "mn02_as_mAP_378.pt"),
        _efficientat(
            "mn04", "mn04_as_mAP_432.pt", "sha256:899a8c6217063f6941793102a2780b3dd788ab11fce468d9cf5f0577c453321c"
        ),
        _efficientat("mn05", "mn05_as_mAP_443.pt"),
        _efficientat(
            "mn10", "mn10_as_mAP_471.pt", "sha256:0bd7dc2443af498c289a2e739f02ebb515d6aa3fd3ab9db539c86123ae368a4e"
        ),
        _efficientat("mn20", "mn20_as_mAP_478.pt"),
        _efficientat("mn30", "mn30_as_mAP_482.pt"),
        _efficientat("mn40", "mn40_as_ext_mAP_487.pt"),
        _panns("cnn6", "Cnn6_mAP%3D0.343.pth", "md5:e25e26b84585b14c7754c91e48efc9be"),
        _panns("cnn10", "Cnn10_mAP%3D0.380.pth", "md5:bfb1f1f9968938fa8ef4012b8471f5f6"),
        _panns("cnn14", "Cnn14_mAP%3D0.431.pth", "md5:541141fa2ee191a88f24a3219fff024e"),
        _panns(
            "cnn14_16k", "Cnn14_16k_mAP%3D0.438.pth", "md5:362fc5ff18f1d6ad2f6d464b45893f2c", "panns16k", "cnn14"
        ),
        _panns("mobilenetv1", "MobileNetV1_mAP%3D0.389.pth", "md5:a419303e1c88aa1b9d2ac3811563d371"),
        _panns("mobilenetv2", "MobileNetV2_mAP%3D0.383.pth", None),
    )
}  # fmt: skip
"""By name. The digests of PANNs are those that Zenodo shows."""


@functools.cache
def vocabulary() -> Vocabulary:
    """AudioSet's 527 classes, in the order of the networks' outputs."""
    text = resources.files(models).joinpath(CLASSES).read_text("utf-8")
    rows = [line.split("\t") for line in text.splitlines() if not line.startswith("#")]
    return Vocabulary(tuple(name for _, name in rows), multi_label=True, mids=tuple(mid for mid, _ in rows))


def named(text: str) -> tuple[Published, str | None] | None:
    """What NAME or NAME:FILE stands for, FILE as a URI; None for anything else, also for a folder of that name.

    Raises:
        ConfigError: NAME: without a file.
    """
    name, colon, file = text.partition(":")
    if name not in PUBLISHED or Path(text).is_dir():
        return None
    if colon and not file:
        raise ConfigError(f"{text}: no file after the colon; {name}:FILE, or {name} alone to have it fetched")
    return PUBLISHED[name], storage.to_uri(file) if colon else None


def cache_folder() -> Path:
    """Where fetched files are kept."""
    return Path(os.environ.get(CACHE_VARIABLE) or DEFAULT_CACHE).expanduser()


def fetch(published: Published) -> Path:
    """The file, fetched unless it is in the cache.

    Raises:
        ConfigError: it can't be fetched, or is not what was published.
    """
    if published.digest is None:
        raise ConfigError(
            f"{published.name}: published at {published.url}; its digest is not known here, so it is not fetched: "
            f"fetch it yourself and give {published.name}:FILE"
        )
    path = cache_folder() / published.file_name
    if not path.is_file():
        _download(published, published.digest, path)
    elif (found := _digest_of(path, published.digest)) != published.digest:
        raise ConfigError(f"{path}: {found}, but {published.url} is {published.digest}; remove the file")
    return path


def _download(published: Published, digest: str, path: Path) -> None:
    log.info("fetching %s into %s", published.url, path.parent)
    hasher = hashlib.new(digest.partition(":")[0], usedforsecurity=False)
    request = urllib.request.Request(published.url, headers={"User-Agent": "audioclf"})
    try:
        with (
            urllib.request.urlopen(request, timeout=TIMEOUT_S) as response,
            storage.create(storage.to_uri(str(path))) as file,
        ):
            while block := response.read(1 << 20):
                hasher.update(block)
                file.write(block)
            found = f"{hasher.name}:{hasher.hexdigest()}"
            if found != digest:
                raise ConfigError(_by_hand(published, path, f"what came is {found}, not {digest}"))
    except (OSError, http.client.HTTPException, StorageError) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        raise ConfigError(_by_hand(published, path, str(error))) from error


def _by_hand(published: Published, path: Path, reason: str) -> str:
    return (
        f"{published.name}: {published.url} can't be fetched: {reason}; fetch it yourself and put it at {path} "
        f"(another folder: {CACHE_VARIABLE}), or give {published.name}:FILE"
    )


def _digest_of(path: Path, digest: str) -> str:
    with path.open("rb") as file:
        hasher = hashlib.file_digest(file, lambda: hashlib.new(digest.partition(":")[0], usedforsecurity=False))
    return f"{hasher.name}:{hasher.hexdigest()}"


def load(published: Published, file_uri: str | None = None) -> Network:
    """The network with its published weights, in evaluation mode.

    Args:
        published: which.
        file_uri: of the weights; None: they are fetched.

    Raises:
        ConfigError: there is no such file, it can't be read, or it holds something else.
    """
    uri = storage.to_uri(str(fetch(published))) if file_uri is None else file_uri
    where = storage.display(uri)
    front_end = get_front_end(published.front_end)
    state = _read(uri)
    if published.layout == "panns":
        state = _without_front_end(state, front_end, where)
    network = models.build(published.network, front_end.n_features, N_CLASSES)
    state = {**state, "mean": network.mean, "std": network.std}
    _require_same(network.state_dict(), state, f"{where}: not the weights of {published.name}")
    network.load_state_dict(state)
    return network.eval()


def _read(uri: str) -> dict[str, Any]:
    """The tensors of a file by torch.save, by name. Nothing but tensors and numbers is unpickled."""
    where = storage.display(uri)
    try:
        data = storage.read_bytes(uri)
    except ClipError as error:
        raise ConfigError(f"{where}: {error.message}") from error
    try:
        with torch.serialization.safe_globals(_numpy_arrays()):
            found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ConfigError(f"{where}: refused: damaged, or it holds more than weights: {_first_line(error)}") from error
    except _DAMAGE as error:
        raise ConfigError(f"{where}: damaged, or no file of torch.save: {_first_line(error)}") from error
    state = found.get("model", found) if isinstance(found, dict) else found
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ConfigError(f"{where}: a {type(state).__name__} where weights by name should be")
    return state


_DAMAGE = (
    RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError, AttributeError, AssertionError, struct.error,
)  # fmt: skip
"""What torch.load raises, besides UnpicklingError, for files cut off or overwritten."""


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _numpy_arrays() -> list[Any]:
    """What arrays of numbers are pickled by: PANNs' files keep the state of their training's sampler so."""
    functions = {"_reconstruct": np.empty(0).__reduce__()[0], "scalar": np.float64().__reduce__()[0]}
    modules = ("numpy.core.multiarray", "numpy._core.multiarray")  # before and since numpy 2
    named = [(function, f"{module}.{name}") for name, function in functions.items() for module in modules]
    return [*named, np.ndarray, np.dtype, *{type(np.dtype(kind)) for kind in "?bhilqBHILQefd"}]


def _without_front_end(state: dict[str, Any], front_end: FrontEnd, where: str) -> dict[str, Any]:
    """PANNs' state dict less its front end, which must be ours."""
    ours = front_end.filters().T
    theirs = state.get(_PANNS_MEL)
    # Filters in float32, by several versions of librosa: a ten-thousandth of the highest.
    if theirs is not None and not (
        theirs.shape == ours.shape and np.allclose(theirs.numpy(), ours, rtol=0, atol=1e-4 * ours.max())
    ):
        raise ConfigError(f"{where}: {_PANNS_MEL}: not the mel filters of the front end {front_end.name}")
    return {name: value for name, value in state.items() if not name.startswith(_PANNS_FRONT_END)}


def _require_same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], what: str) -> None:
    """Raise ConfigError unless both have the same names and shapes."""
    for state, other, word in ((ours, theirs, "lacks"), (theirs, ours, "has")):
        if names := [name for name in state if name not in other]:
            raise ConfigError(f"{what}: it {word} {', '.join(names[:3])}" + (" and more" if len(names) > 3 else ""))
    for name, tensor in ours.items():
        if theirs[name].shape != tensor.shape:
            raise ConfigError(f"{what}: {name} is {list(theirs[name].shape)}, should be {list(tensor.shape)}")
