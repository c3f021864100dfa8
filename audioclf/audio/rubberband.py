"""Time stretching and pitch shifting by the rubberband program, in one pass of its engine."""

import contextlib
import functools
import math
import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from typing import Literal

import numpy as np
import pyrubberband
import soundfile

from audioclf.errors import AugmentError, EngineError, StorageError

Engine = Literal["r2", "r3"]

REMEDY = "install it: apt-get install rubberband-cli (Debian, Ubuntu), brew install rubberband (macOS)"

HEADROOM_PEAK = 1 / 16
"""Highest peak of what the program is given: it makes softer what would come out above 1, as clipped noise does, whose
peaks become four times as high. Samples are scaled by a power of two, which changes none of their digits, before and
back after."""

ENDING_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
"""Of a terminal, or of a machine that shuts down: no clip is to blame."""

MIN_SAMPLES = 1024
"""Shorter sounds are padded to this: the engines give nothing or nonsense for less. Nor may a result be shorter by
more: where the program can't write its whole file, its exit code is 0 all the same."""

MEMORY = "/dev/shm"
"""Where Linux keeps files in memory."""
FREE_BYTES = 256 << 20
"""With less left there, files lie on disk: containers have 64 MB, which a few workers' files fill."""
WORKERS = 8
"""Whose files a folder is to hold: with less room, a file that is not as it should be is put down to that."""


@functools.cache
def check() -> None:
    """Do nothing where the program runs.

    Raises:
        EngineError: it is missing or broken; names the machine and the remedy.
    """
    try:
        done = subprocess.run(["rubberband", "--version"], capture_output=True, timeout=30, check=False)
        broken = f"ends with exit code {done.returncode}" if done.returncode else ""
    except FileNotFoundError:
        broken = "is missing"
    except (OSError, subprocess.TimeoutExpired) as error:
        broken = f"does not run ({error})"
    if broken:
        raise EngineError(f"the rubberband program {broken} on {socket.gethostname()}; {REMEDY}")


def stretch_and_shift(
    samples: np.ndarray, sample_rate: int, stretch: float, pitch_semitones: float, engine: Engine, clip_uri: str
) -> np.ndarray:
    """The equivalent of `rubberband -t STRETCH -p PITCH`.

    Args:
        samples: [n] float32, of any level.
        sample_rate: Hz.
        stretch: duration factor; 1.5 is one and a half times as long.
        pitch_semitones: upwards; 12 is an octave.
        engine: r2, the faster one, or r3, the finer one, which takes three to five times as long.
        clip_uri: for messages.

    Returns:
        [round(n · stretch)] float32.

    Raises:
        AugmentError: the engine failed on these samples.
        EngineError: the program is missing or broken.
        StorageError: there is no room for its files.
    """
    length = round(len(samples) * stretch)
    whole = np.zeros(length, np.float32)
    peak = float(np.abs(samples).max(initial=0))
    if peak < np.finfo(np.float32).tiny:  # silence stays silence
        return whole
    scale = 2.0 ** math.floor(math.log2(HEADROOM_PEAK / peak))
    scaled = np.zeros(max(len(samples), MIN_SAMPLES), np.float32)
    np.multiply(samples, np.float32(scale), out=scaled[: len(samples)])
    what = f"rubberband -t {stretch:g} -p {pitch_semitones:g}"
    folder = _folder()
    try:
        found = _run(scaled, sample_rate, stretch, pitch_semitones, engine, folder)[:length]
    except (subprocess.CalledProcessError, soundfile.LibsndfileError, RuntimeError, OSError) as error:
        if isinstance(error, subprocess.CalledProcessError) and -error.returncode in ENDING_SIGNALS:
            raise EngineError(f"{clip_uri}: {what} was ended from outside (signal {-error.returncode})") from error
        check.cache_clear()
        check()
        _check_room(folder, len(scaled) + length)
        raise AugmentError(clip_uri, "augment", f"{what} failed: {error}") from error
    if len(found) < max(1, length - MIN_SAMPLES):
        _check_room(folder, len(scaled) + length)
        raise AugmentError(clip_uri, "augment", f"{what} gave {len(found)} samples where {length} are due")
    np.multiply(found, np.float32(1 / scale), out=whole[: len(found)])
    return whole


def _run(
    samples: np.ndarray, sample_rate: int, stretch: float, semitones: float, engine: Engine, folder: str
) -> np.ndarray:
    """One call of pyrubberband, whose pitch_shift does nothing for 0 semitones and adds our options to its own."""
    options = {"--fine": ""} if engine == "r3" else {}
    with _files_for_pyrubberband(folder):
        if semitones == 0:
            changed = pyrubberband.time_stretch(samples, sample_rate, 1 / stretch, rbargs=options)
        else:
            changed = pyrubberband.pitch_shift(samples, sample_rate, semitones, rbargs={"--time": stretch, **options})
    return np.atleast_1d(changed)


class _FloatFiles:
    """soundfile as pyrubberband uses it, but for the width of its files: of samples rounded to 16 bits the engine makes
    a sound with other phases."""

    read = staticmethod(soundfile.read)
    write = staticmethod(functools.partial(soundfile.write, subtype="FLOAT"))


def _free_bytes(folder: str) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def _folder() -> str:
    """Where temporary files lie: in memory if there is room and the user wants no other place."""
    in_memory = "TMPDIR" not in os.environ and os.access(MEMORY, os.W_OK) and _free_bytes(MEMORY) >= FREE_BYTES
    return MEMORY if in_memory else tempfile.gettempdir()


def _check_room(folder: str, n_samples: int) -> None:
    """Raise StorageError where a folder can't hold files of so many samples, and those of other workers beside them."""
    needed = WORKERS * n_samples * np.dtype(np.float32).itemsize
    if _free_bytes(folder) < needed:
        raise StorageError(
            f"{folder}: no room for the files that rubberband reads and writes; free {needed / 1e6:.0f} MB there, or "
            "name another folder by TMPDIR, and run the same command again"
        )


@contextlib.contextmanager
def _files_for_pyrubberband(folder: str) -> Iterator[None]:
    """Its temporary files are of float32 and lie in a folder of our choice."""
    before, tempfile.tempdir = tempfile.tempdir, folder
    pyrubberband.pyrb.sf = _FloatFiles
    try:
        yield
    finally:
        tempfile.tempdir, pyrubberband.pyrb.sf = before, soundfile
