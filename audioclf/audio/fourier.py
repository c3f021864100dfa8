"""Fourier transforms of many frames at once, compiled: [n, LANES] arrays, a frame in each column.

A processor computes eight or sixteen columns with one instruction, whatever the transform's length. NumPy's and SciPy's
packages are built for the oldest processors; this is compiled for the one at hand, by Numba, and kept on disk.
"""

import numpy as np
from numba import njit
from numba.core.compiler import CompilerBase, DefaultPassBuilder

LANES = 32
"""Frames at once: four vectors of AVX2, two of AVX-512. Loops over fewer are unrolled before they could become vectors;
with more, the arrays outgrow the cache."""


class _ArgumentsApart(CompilerBase):
    """Numba's usual compiler, told that no two arrays of a call overlap: else it makes no vectors of the loops here."""

    def define_pipelines(self):
        self.state.flags.noalias = True
        return [DefaultPassBuilder.define_nopython_pipeline(self.state)]


def compiled(function):
    """Decorator: Numba's. Arguments must not overlap, unless they are only read. `a * b + c` may be rounded once."""
    options = {"pipeline_class": _ArgumentsApart, "fastmath": {"contract"}, "error_model": "numpy"}
    try:
        return njit(**options, cache=True)(function)
    except RuntimeError:  # neither beside the file nor in a home may anything be written
        return njit(**options)(function)


def factors(n: int) -> np.ndarray:
    """n as a product of fours, then primes: the passes of a transform of length n."""
    found = []
    for factor in (4, *range(2, n + 1)):
        while n % factor == 0:
            found.append(factor)
            n //= factor
    return np.array(found, np.int64)


def roots(n: int, period: int, dtype: type[np.floating]) -> np.ndarray:
    """exp(−2πi·k / period) for k < n: [2, n], the real parts and the imaginary ones."""
    angle = 2 * np.pi * np.arange(n) / period
    return np.stack([np.cos(angle), -np.sin(angle)]).astype(dtype)


@compiled
def transform(re, im, other_re, other_im, passes, turns):
    """The discrete Fourier transforms of n·LANES numbers, LANES of length n; both pairs of arrays are overwritten.

    Args:
        re, im: flat [n, LANES].
        other_re, other_im: as large.
        passes: factors(n).
        turns: roots(n, n).

    Returns:
        The real and the imaginary parts, flat [n, LANES]: one of the two pairs.

    Source: the self-sorting algorithm of T. G. Stockham; C. Van Loan, Computational Frameworks for the FFT (1992), 1.7.
    """
    m, stride = turns.shape[1], LANES
    for radix in passes:
        m //= radix
        if radix == 4:
            _pass_4(re, im, other_re, other_im, m, stride, turns)
        else:
            _pass_any(re, im, other_re, other_im, radix, m, stride, turns)
        re, other_re = other_re, re
        im, other_im = other_im, im
        stride *= radix
    return re, im


@compiled
def _pass_4(re, im, out_re, out_im, m, stride, turns):
    """[4, m, stride] → [m, 4, stride]. Flat indices: of three, Numba finds no vectors."""
    step = turns.shape[1] // (4 * m)
    for p in range(m):
        re1, im1 = turns[0, p * step], turns[1, p * step]
        re2, im2 = turns[0, 2 * p * step], turns[1, 2 * p * step]
        re3, im3 = turns[0, 3 * p * step], turns[1, 3 * p * step]
        a, b, c, d = stride * p, stride * (p + m), stride * (p + 2 * m), stride * (p + 3 * m)
        out = 4 * stride * p
        for j in range(stride):
            even_re, even_im = re[a + j] + re[c + j], im[a + j] + im[c + j]
            apart_re, apart_im = re[a + j] - re[c + j], im[a + j] - im[c + j]
            odd_re, odd_im = re[b + j] + re[d + j], im[b + j] + im[d + j]
            turned_re, turned_im = im[b + j] - im[d + j], re[d + j] - re[b + j]  # −i·(b − d)
            out_re[out + j], out_im[out + j] = even_re + odd_re, even_im + odd_im
            x, y = apart_re + turned_re, apart_im + turned_im
            out_re[out + stride + j], out_im[out + stride + j] = x * re1 - y * im1, x * im1 + y * re1
            x, y = even_re - odd_re, even_im - odd_im
            out_re[out + 2 * stride + j], out_im[out + 2 * stride + j] = x * re2 - y * im2, x * im2 + y * re2
            x, y = apart_re - turned_re, apart_im - turned_im
            out_re[out + 3 * stride + j], out_im[out + 3 * stride + j] = x * re3 - y * im3, x * im3 + y * re3


@compiled
def _pass_any(re, im, out_re, out_im, radix, m, stride, turns):
    """[radix, m, stride] → [m, radix, stride], by the definition of the transform: radix² products."""
    n = turns.shape[1]
    for p in range(m):
        for k in range(radix):
            out = stride * (radix * p + k)
            for i in range(radix):
                turn = (p * k * (n // (radix * m)) + i * k * (n // radix)) % n
                x, y = turns[0, turn], turns[1, turn]
                part = stride * (p + i * m)
                if i == 0:
                    for j in range(stride):
                        out_re[out + j] = re[part + j] * x - im[part + j] * y
                        out_im[out + j] = re[part + j] * y + im[part + j] * x
                else:
                    for j in range(stride):
                        out_re[out + j] += re[part + j] * x - im[part + j] * y
                        out_im[out + j] += re[part + j] * y + im[part + j] * x
