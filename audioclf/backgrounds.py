"""Background recordings that augmentation mixes in: found on the driver, decoded in the workers."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from audioclf import fetch, storage
from audioclf.audio import segment
from audioclf.audio.recording import Recording
from audioclf.errors import ClipError, ConfigError, StorageError
from audioclf.layouts import AUDIO_SUFFIXES

MAX_S = 60.0
"""Of a longer background recording the beginning is taken."""

HELD = 4
"""Background recordings a worker holds decoded: 10 MB each at most."""


@dataclass(frozen=True)
class Background:
    """A background recording: its path below the folder, and what tells its bytes from others."""

    name: str
    uri: str
    etag: str


def find(folder: str) -> tuple[Background, ...]:
    """All audio files below a folder or prefix, by name; each one's header is read.

    Raises:
        ConfigError: there is no such folder, no audio in it, or a file that can't be read.
    """
    files = sorted(storage.list_files(storage.to_uri(folder)), key=lambda file: file.path)
    found = [file for file in files if file.path.lower().endswith(AUDIO_SUFFIXES)]
    if not found:
        raise ConfigError(f"--backgrounds {folder}: no audio file below it")
    for file in found:
        try:
            info = fetch.probe(file.uri)
        except ClipError as error:
            raise ConfigError(f"--backgrounds: {error.clip_uri}: {error.message}") from error
        if info.duration_s == 0:
            raise ConfigError(f"--backgrounds: {storage.display(file.uri)}: the file holds no samples")
    return tuple(Background(file.path, file.uri, file.etag) for file in found)


def loader(backgrounds: Sequence[Background], sample_rate: int) -> Callable[[str], np.ndarray]:
    """Gives the samples [n] float32 at a rate (Hz), of a background recording by its name.

    It raises StorageError where one is gone, changed or broken, since it would be missing from every copy.
    """
    by_name = {one.name: one for one in backgrounds}
    grid = segment.Grid(sample_rate, round(MAX_S * sample_rate), round(MAX_S * sample_rate), min_tail=1.0)

    @functools.lru_cache(maxsize=HELD)
    def load(name: str) -> np.ndarray:
        uri = by_name[name].uri
        try:
            with Recording(storage.open_ranged(uri, by_name[name].etag), storage.display(uri)) as found:
                beginning = next(iter(segment.segments(found, grid)))
        except ClipError as error:
            raise StorageError(f"--backgrounds: {error.clip_uri}: {error.message}") from error
        if not beginning.finite:
            raise StorageError(
                f"--backgrounds: {storage.display(uri)}: samples that are NaN, infinite or beyond all measure"
            )
        return beginning.samples.copy()

    return load
