"""Sounds and their spectrograms as data URIs, for a page that has nothing beside it."""

import base64
import io
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import soundfile
import soxr
from matplotlib import image

from audioclf.audio.frontend import FrontEnd, get_front_end
from audioclf.audio.log_mel import log_mel
from audioclf.errors import StorageError

T = TypeVar("T")

MOST_S = 10.0
"""Of a sound, what a page holds: 80 kB."""
RANGE_DB = 80.0
"""Of a picture, from its loudest point down."""
MP3_RATE_HZ = 32_000
"""One that MP3 has; sounds of other rates are resampled for listening."""


class SoundSource:
    """Gets the sounds of one report: none is asked for once their store could not be reached, since each would
    take a minute to find that out.
    """

    def __init__(self) -> None:
        self._error: StorageError | None = None

    def get(self, read: Callable[[], T]) -> T:
        """What `read` gives. Raises StorageError where it does, or did before."""
        if self._error is not None:
            raise self._error
        try:
            return read()
        except StorageError as error:
            self._error = error
            raise


def picture(pixels: np.ndarray) -> str:
    """A PNG of [M, T] log-mel values, low bands at the bottom."""
    values = np.asarray(pixels, np.float32)
    top = float(values.max())
    png = io.BytesIO()
    image.imsave(
        png, values, vmin=max(float(values.min()), top - RANGE_DB), vmax=top, cmap="magma", origin="lower", format="png"
    )
    return _data_uri("image/png", png.getvalue())


def picture_of(samples: np.ndarray, sample_rate: int) -> str:
    """The same of a sound, by the default front end."""
    spec: FrontEnd = get_front_end("logmel44k")
    return picture(log_mel(_heard(samples, sample_rate, spec.sample_rate), spec))


def audio(samples: np.ndarray, sample_rate: int) -> str:
    """MP3 of [n] mono samples, at full scale at most."""
    samples = _heard(samples, sample_rate, MP3_RATE_HZ)
    peak = float(np.abs(samples).max(initial=0))
    mp3 = io.BytesIO()
    soundfile.write(mp3, samples / max(peak, 1.0), MP3_RATE_HZ, format="MP3", subtype="MPEG_LAYER_III")
    return _data_uri("audio/mpeg", mp3.getvalue())


def _heard(samples: np.ndarray, sample_rate: int, rate: int) -> np.ndarray:
    """The first MOST_S of them, at another rate."""
    samples = samples[: round(MOST_S * sample_rate)]
    return samples if sample_rate == rate else soxr.resample(samples, sample_rate, rate, quality="HQ")


def png(content: bytes) -> str:
    """A PNG file as it is."""
    return _data_uri("image/png", content)


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
