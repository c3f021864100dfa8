"""The formula of a front end in double precision, written for clarity and apart from audioclf's own code."""

import numpy as np
import scipy.fft
import scipy.signal

from audioclf.audio.frontend import FrontEnd


def picture(samples: np.ndarray, spec: FrontEnd, filters: np.ndarray) -> np.ndarray:
    """[n_features, n_frames] float64 by the spec, with these [n_mels, bins] filters."""
    sound = samples.astype(np.float64)
    if spec.pre_emphasis:
        sound = sound[1:] - spec.pre_emphasis * sound[:-1]
    window = scipy.signal.get_window("hann", spec.win_length, fftbins=spec.periodic_window)
    if spec.center:
        before = (spec.n_fft - spec.win_length) // 2
        window = np.pad(window, (before, spec.n_fft - spec.win_length - before))
        sound = np.pad(sound, spec.n_fft // 2, mode=spec.pad_mode if len(sound) else "constant")
    sound = np.pad(sound, (0, max(0, len(window) - len(sound))))  # at least one frame
    starts = range(0, len(sound) - len(window) + 1, spec.hop_length)
    spectra = np.fft.rfft([sound[start : start + len(window)] * window for start in starts], n=spec.n_fft)
    mel = np.maximum(filters @ (np.abs(spectra) ** spec.power).T, spec.floor) + spec.log_offset
    log = 10 * np.log10(mel) if spec.log == "db" else np.log(mel)
    if spec.top_db is not None:
        log = np.maximum(log, log.max() - spec.top_db)
    if spec.n_mfcc:
        log = np.asarray(scipy.fft.dct(log, type=2, axis=0, norm="ortho"))[: spec.n_mfcc]
    return (log - spec.mean) / spec.std
