"""Front ends that keep samples: what is kept, and how they are told from those that make pictures."""

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audioclf.audio import pcm
from audioclf.audio.features import features
from audioclf.audio.frontend import FRONT_ENDS, get_front_end
from audioclf.audio.log_mel import log_mel
from audioclf.audio.pcm import PCM_FRONT_ENDS, AnyFrontEnd, Pcm, from_int16, get_any_front_end, to_int16
from audioclf.errors import ConfigError, SchemaError

PCM44K, LOGMEL44K = get_any_front_end("pcm44k"), get_front_end("logmel44k")
EVERY = [*FRONT_ENDS.values(), *PCM_FRONT_ENDS.values()]


@pytest.mark.parametrize(("name", "rate"), [("pcm32k", 32_000), ("pcm44k", 44_100)])
def test_a_frame_is_a_sample(name: str, rate: int) -> None:
    front_end = get_any_front_end(name)
    assert isinstance(front_end, Pcm)
    assert (front_end.n_features, front_end.n_frames(5 * rate), front_end.duration_s(5 * rate)) == (1, 5 * rate, 5.0)
    samples = np.linspace(-1, 1, 500, dtype=np.float32)
    kept = features(samples, front_end)
    assert kept.shape == (1, 500)
    np.testing.assert_array_equal(kept[0], to_int16(samples))


def test_the_features_of_a_log_mel_front_end_are_its_picture() -> None:
    samples = np.random.default_rng(0).normal(scale=0.1, size=5000).astype(np.float32)
    np.testing.assert_array_equal(features(samples, LOGMEL44K), log_mel(samples, LOGMEL44K))


@pytest.mark.parametrize(
    ("sample", "kept"),
    [
        (0.0, 0), (0.5, 16_384), (-0.5, -16_384), (-1.0, -32_768), (32_767 / 32_768, 32_767),
        (0.4 / 32_768, 0), (0.6 / 32_768, 1), (-0.6 / 32_768, -1), (1.6 / 32_768, 2),  # the nearest
        (1.0, 32_767), (1.7, 32_767), (-1.7, -32_768), (1e11, 32_767), (-1e11, -32_768),  # clipped
    ],
)  # fmt: skip
def test_samples_are_rounded_and_clipped(sample: float, kept: int) -> None:
    (found,) = to_int16(np.array([sample], np.float32))
    assert found == kept
    assert found.dtype == np.int16


def test_every_int16_survives() -> None:
    every = np.arange(-32_768, 32_768).astype(np.int16)
    as_float = from_int16(every)
    assert as_float.dtype == np.float32
    np.testing.assert_array_equal(as_float, every / 32_768.0)
    np.testing.assert_array_equal(to_int16(as_float), every)


@given(st.floats(-1, 1, width=32))
def test_rounding_is_half_a_step_at_most(sample: float) -> None:
    back = from_int16(to_int16(np.array([sample], np.float32)))[0]
    assert abs(float(back) - sample) <= (1 if sample > 32_767 / 32_768 else 0.5) / 32_768


@pytest.mark.parametrize("spec", EVERY, ids=lambda spec: spec.name)
def test_a_stored_front_end_is_read_back_as_its_kind(spec: AnyFrontEnd) -> None:
    assert pcm.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    assert get_any_front_end(spec.name) is spec
    assert pcm.differences(spec, pcm.from_dict(spec.to_dict())) == ""


def test_fields_of_another_version_are_refused() -> None:
    with pytest.raises(SchemaError, match=r"not a front end of this version.*dither"):
        pcm.from_dict({"name": "x", "sample_rate": 8000, "encoding": "int16", "dither": True})
    with pytest.raises(SchemaError, match=r"not a front end of this version.*n_fft"):
        pcm.from_dict({"name": "x", "sample_rate": 8000})


def test_differences_name_both_sides() -> None:
    against = "waveforms (pcm44k) against log-mel pictures (logmel44k)"
    assert pcm.differences(PCM44K, LOGMEL44K) == against
    assert pcm.differences(LOGMEL44K, PCM44K) == "log-mel pictures (logmel44k) against waveforms (pcm44k)"
    other = get_any_front_end("pcm32k")
    assert pcm.differences(PCM44K, other) == "name pcm44k against pcm32k, sample_rate 44100 against 32000"
    with_other_mels = get_front_end("panns32k")
    assert "hop_length 1024 against 320" in pcm.differences(LOGMEL44K, with_other_mels)


def test_an_unknown_name_is_told_those_of_both_kinds() -> None:
    with pytest.raises(ConfigError, match=r"'pcm' is unknown; there are: efficientat32k, .*pcm32k, pcm44k, yamnet16k"):
        get_any_front_end("pcm")


def test_a_worker_does_not_import_what_only_the_driver_needs() -> None:
    slow = "('librosa', 'torch', 'ray', 'scipy.signal')"
    code = f"import sys, audioclf.waveforms; print([name for name in {slow} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
