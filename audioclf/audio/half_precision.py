"""float32 → float16, compiled: NumPy converts number by number on x86."""

import numpy as np

from audioclf.audio.compiled import compiled


def to_float16(values: np.ndarray, out: np.ndarray) -> None:
    """Round to the nearest float16, ties to even, as IEEE 754 and NumPy have it: `out[:] = values`.

    Args:
        values: float32, or what float32 has exactly.
        out: float16, as many, contiguous.
    """
    _round(np.ascontiguousarray(values, np.float32).reshape(-1), out.view(np.uint16).reshape(-1))


_INFINITY, _NORMAL, _BEYOND = 0xFF << 23, (127 - 14) << 23, (127 + 16) << 23
"""As bits of float32; the smallest that float16 has with all its digits, 2**-14; and what it has no more, 2**16."""


@compiled
def _round(values, out):
    for i in range(len(values)):
        bits = np.float32(values[i]).view(np.int32)
        size = bits & 0x7FFFFFFF
        # A bias of 15, not 127; 13 bits less, of which the last takes the rounding, and the exponent what it carries.
        half = (size - ((127 - 15) << 23) + 0xFFF + ((size >> 13) & 1)) >> 13
        # Below 2**-14 the steps are of 2**-24, like those of float32 from 0.5 on: the addition rounds.
        subnormal = np.float32(abs(values[i]) + np.float32(0.5)).view(np.int32) - (126 << 23)
        special = 0x7C00 if size <= _INFINITY else 0x7E00
        half = subnormal if size < _NORMAL else (half if size < _BEYOND else special)
        out[i] = half | ((bits >> 16) & 0x8000)
