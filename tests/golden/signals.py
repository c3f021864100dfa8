"""Sounds that are hard on a front end, each in its own way, and front ends of any geometry."""

import numpy as np
import scipy.signal
from hypothesis import strategies as st

from audioclf.audio.frontend import FrontEnd


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


@st.composite
def geometries(draw: st.DrawFn) -> FrontEnd:
    """Front ends of four bands that differ in how frames are cut, and in pre-emphasis and power."""
    n_fft = 2 * draw(st.integers(8, 300))
    return FrontEnd(
        "drawn", 16_000, n_fft,
        win_length=draw(st.integers(3, n_fft)),
        hop_length=draw(st.integers(1, 2 * n_fft)),
        n_mels=4, f_min_hz=0.0, f_max_hz=8_000.0,
        periodic_window=draw(st.booleans()),
        center=draw(st.booleans()),
        pad_mode=draw(st.sampled_from(["constant", "reflect"])),
        pre_emphasis=draw(st.sampled_from([0.0, 0.9])),
        power=draw(st.sampled_from([1.0, 2.0])),
    )  # fmt: skip
