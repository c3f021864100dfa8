"""Samples → what a shard holds of them, for front ends of either kind."""

import numpy as np

from audioclf.audio.log_mel import log_mel
from audioclf.audio.pcm import AnyFrontEnd, Pcm, to_int16


def features(samples: np.ndarray, front_end: AnyFrontEnd) -> np.ndarray:
    """What a shard holds of a segment.

    Args:
        samples: [n] float32 at front_end.sample_rate.
        front_end: of either kind.

    Returns:
        The picture, [n_features, n_frames] float32; of Pcm [1, n] int16.
    """
    return to_int16(samples)[None] if isinstance(front_end, Pcm) else log_mel(samples, front_end)
