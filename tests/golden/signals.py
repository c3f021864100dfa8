"""Sounds that are hard on a front end, each in its own way."""

import numpy as np
import scipy.signal


def signals(sample_rate: int) -> dict[str, np.ndarray]:
    """Name → [n] float32."""
    rng = np.random.default_rng(0)
    time = np.arange(2 * sample_rate) / sample_rate
    noise = rng.normal(scale=0.1, size=len(time))
    click = np.zeros(len(time))
    click[len(time) // 3] = 1
    sounds = {
        "noise": noise,
        "quiet noise": 1e-4 * noise,
        "tone in noise": 0.5 * np.sin(2 * np.pi * 440 * time) + 0.01 * noise,
        "chirp": scipy.signal.chirp(time, 50, time[-1], 0.45 * sample_rate),
        "click": click,
        "silence": np.zeros(len(time)),
        "one sample more than 1024": noise[:1025],
        "shorter than a window": noise[:300],
    }
    return {name: sound.astype(np.float32) for name, sound in sounds.items()}
