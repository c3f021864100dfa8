"""Shards of waveforms → log-mel pictures, by the front end that extraction uses. Plain numpy.

>>> examples = shards.load(["run/"], copies=False)           # extracted with --frontend pcm32k
>>> as_log_mel(examples, get_front_end("efficientat32k")).log_mel.shape
(400, 128, 500)
"""

import numpy as np

from audioclf.audio.frontend import FrontEnd
from audioclf.audio.log_mel import log_mel
from audioclf.audio.pcm import AnyFrontEnd, Pcm, from_int16
from audioclf.errors import ConfigError
from audioclf.shards import Examples


def require(stored: AnyFrontEnd, spec: FrontEnd) -> None:
    """Raise ConfigError unless a front end can make its pictures of what shards hold: waveforms of its rate."""
    if not isinstance(stored, Pcm):
        raise ConfigError(f"the shards hold log-mel pictures ({stored.name}), no waveforms; extract pcm32k or pcm44k")
    if stored.sample_rate != spec.sample_rate:
        raise ConfigError(
            f"front end {spec.name} takes {spec.sample_rate} Hz, the shards hold {stored.sample_rate} Hz "
            f"({stored.name}): extract waveforms of that rate, or take a front end of this one"
        )


def pictures_of(waveforms: np.ndarray, spec: FrontEnd) -> np.ndarray:
    """[N, 1, n] int16 → [N, n_features, n_frames] float16."""
    pictures = np.empty((len(waveforms), spec.n_features, spec.n_frames(waveforms.shape[2])), spec.dtype)
    for picture, samples in zip(pictures, waveforms, strict=True):
        picture[:] = log_mel(from_int16(samples[0]), spec)
    return pictures


def valid_frames_of(valid_samples: np.ndarray, spec: FrontEnd) -> np.ndarray:
    """[N] int32 samples that are no padding → [N] int32 such frames."""
    return np.array([spec.n_frames(int(n)) for n in valid_samples], np.int32)


def pictures(examples: Examples, spec: FrontEnd) -> Examples:
    """Rows of pictures as they are; rows of waveforms `as_log_mel`."""
    return as_log_mel(examples, spec) if isinstance(examples.front_end, Pcm) else examples


def as_log_mel(examples: Examples, spec: FrontEnd) -> Examples:
    """The same rows as if `spec` had extracted them, but for the rounding of samples to int16.

    Of 16-bit PCM that extraction had neither to resample nor to mix, exactly the same.

    Raises:
        ConfigError: see `require`.
    """
    require(examples.front_end, spec)
    pictures = pictures_of(examples.pictures, spec)
    return Examples(spec, pictures, valid_frames_of(examples.valid_frames, spec), examples.columns)
