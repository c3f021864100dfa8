"""The compiled Fourier transform against NumPy's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audioclf.audio.mel_spectra import LANES, factors, roots, transform


def transformed(signals: np.ndarray, dtype: type[np.floating]) -> np.ndarray:
    """[n, LANES] complex → their transforms, by `transform`."""
    n = len(signals)
    re, im = (np.ascontiguousarray(part.ravel(), dtype) for part in (np.real(signals), np.imag(signals)))
    found = transform(re, im, np.empty_like(re), np.empty_like(re), factors(n), roots(n, n, dtype))
    return (found[0] + 1j * found[1]).reshape(n, LANES)


@settings(max_examples=60, deadline=None)
@given(n=st.one_of(st.integers(1, 130), st.sampled_from([256, 512, 600, 1024, 2310])))
@pytest.mark.parametrize(("dtype", "bound"), [(np.float32, 2e-6), (np.float64, 4e-15)])
def test_any_length_is_that_of_numpy(dtype: type[np.floating], bound: float, n: int) -> None:
    draw = np.random.default_rng(n).normal
    signals = draw(size=(n, LANES)) + 1j * draw(size=(n, LANES))
    exact = np.fft.fft(signals, axis=0)
    np.testing.assert_allclose(transformed(signals, dtype), exact, atol=bound * np.abs(exact).max())


@given(n=st.integers(1, 5000))
def test_the_passes_multiply_to_the_length(n: int) -> None:
    passes = factors(n)
    assert passes.prod() == n
    assert (passes == 2).sum() <= 1
    assert all(p == 4 or all(p % d for d in range(2, p)) for p in passes.tolist())


def test_columns_do_not_touch_each_other() -> None:
    one = np.zeros((512, LANES), complex)
    one[:, 3] = np.random.default_rng(0).normal(size=512)
    found = transformed(one, np.float32)
    assert not np.delete(found, 3, axis=1).any()
    many = np.random.default_rng(1).normal(size=(512, LANES)) * 1e6 + 0j
    many[:, 5] = one[:, 3]
    np.testing.assert_array_equal(transformed(many, np.float32)[:, 5], found[:, 3])
