"""float32 → float16 against NumPy, which is bit for bit the conversion of IEEE 754."""

import numpy as np
import pytest

from audioclf.audio.half_precision import to_float16


def by_numpy(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore", under="ignore"):
        return values.astype(np.float16)


def assert_same_bits(values: np.ndarray) -> None:
    ours, theirs = np.empty(values.shape, np.float16), by_numpy(values)
    to_float16(values, ours)
    numbers = ~np.isnan(theirs)
    np.testing.assert_array_equal(np.isnan(ours), ~numbers)
    np.testing.assert_array_equal(ours.view(np.uint16)[numbers], theirs.view(np.uint16)[numbers])


def test_any_bits_of_float32_are_rounded_as_numpy_does() -> None:
    assert_same_bits(np.random.default_rng(0).integers(0, 1 << 32, 2_000_000, dtype=np.uint32).view(np.float32))


@pytest.mark.parametrize(
    "bound",
    [2.0**-25, 2.0**-24, 2.0**-14, 1.0, 65_504.0, 65_520.0, 65_536.0, np.inf],  # 0 | subnormal | normal | infinite
)
def test_around_the_bounds_of_float16(bound: float) -> None:
    around = np.float32(bound).view(np.int32) + np.arange(-20_000, 20_001)  # beyond the infinite: NaN
    values = around.astype(np.int32).view(np.float32)
    assert_same_bits(np.concatenate([values, -values]))


def test_ties_go_to_the_even_neighbour_and_zero_keeps_its_sign() -> None:
    steps = np.arange(2048, 4096, dtype=np.float32)
    assert_same_bits(np.concatenate([steps + 0.5, -steps - 1, [0.0, -0.0]]).astype(np.float32))


def test_rows_of_a_wider_array_are_taken() -> None:
    wide = np.random.default_rng(0).normal(size=(8, 40)).astype(np.float32)
    assert_same_bits(wide[:, :33])
