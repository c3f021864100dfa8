"""Samples → mel spectra, compiled: window, Fourier transform, power and mel filters, LANES frames at a time.

Arrays are [n, LANES], a frame in each column: a processor computes eight or sixteen columns with one instruction,
whatever the length of the transform.
"""

from typing import NamedTuple

import numpy as np

from audioclf.audio.compiled import compiled

LANES = 32
"""Frames at once: four vectors of AVX2, two of AVX-512. Loops over fewer are unrolled before they could become vectors;
with more, the arrays outgrow the cache."""

_PAIRS = 32
"""Of the samples of one frame that are stored before those of the next: what they go to stays in the nearest cache."""

_APART = 16
"""Numbers between arrays that would push each other out of the cache at a distance of a power of two."""

_STEP = 4
"""Bins that a filter takes at once."""


class Tables(NamedTuple):
    """What is the same for all frames, in the precision that they are computed in.

    Attributes:
        window: [win_length], and a zero after it if that is odd.
        passes: factors(n_fft/2).
        turns: roots(n_fft/2, n_fft/2).
        half_turns: roots(n_fft/2, n_fft).
        first: [n_mels] each filter's first bin.
        offsets: [n_mels + 1] where in `weights` it begins and ends.
        weights: of all filters, one after the other; most of the zeros around them are left out.
        sure: [n_mels] a filter's value times this must reach the frame's strongest bin.
    """

    window: np.ndarray
    passes: np.ndarray
    turns: np.ndarray
    half_turns: np.ndarray
    first: np.ndarray
    offsets: np.ndarray
    weights: np.ndarray
    sure: np.ndarray

    @classmethod
    def of(cls, window: np.ndarray, filters: np.ndarray, faintest: float, dtype: type[np.floating]) -> "Tables":
        """The tables of a front end.

        Args:
            window: [win_length].
            filters: [n_mels, 1 + n_fft/2].
            faintest: bins so much weaker than their frame's strongest, as a factor, are lost in rounding.
            dtype: to compute in.
        """
        n_bins, taken = filters.shape[1], filters != 0
        first = taken.argmax(axis=1)
        lengths = np.where(taken.any(axis=1), n_bins - taken[:, ::-1].argmax(axis=1) - first, 0)
        lengths = -(-lengths // _STEP) * _STEP
        longer = np.pad(filters, ((0, 0), (0, _STEP)))
        spans = [row[at : at + length] for row, at, length in zip(longer, first, lengths, strict=True)]
        half = n_bins - 1
        return cls(
            window=np.pad(window, (0, len(window) % 2)).astype(dtype),
            passes=factors(half),
            turns=roots(half, half, dtype),
            half_turns=roots(half, 2 * half, dtype),
            first=first,
            offsets=np.cumsum([0, *lengths]),
            weights=np.concatenate(spans).astype(dtype),
            sure=(1 / (faintest * np.maximum(filters.sum(axis=1), 1e-9))).astype(dtype),
        )


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
def mel_spectra(samples, hop, magnitude, floor, tables, mel, unsure):
    """The mel spectra of frames, and of which of them the precision is not enough.

    Args:
        samples: float32; frame t is window × the samples from t·hop on, of which there must be as many.
        hop: samples.
        magnitude: whether filters take |X|, not |X|².
        floor: values up to it count for nothing; of the tables' precision.
        tables: LANES frames at once are computed in their precision.
        mel: [n_mels, n_frames], to fill in; a multiple of LANES frames.
        unsure: [n_frames] bool, to fill in: whether a value above the floor is lost in rounding.
    """
    n, dtype = tables.turns.shape[1], tables.window.dtype
    apart = n * LANES + _APART
    room = np.empty(4 * apart, dtype)
    even, odd = room[: n * LANES], room[apart : apart + n * LANES]
    other_re, other_im = room[2 * apart : 2 * apart + n * LANES], room[3 * apart : 3 * apart + n * LANES]
    bins = np.zeros((n + _STEP, LANES), dtype)  # zeros beyond the last: filters take _STEP at once
    bands = np.empty((len(tables.first), LANES), dtype)
    strongest, faintest = np.empty(LANES, dtype), np.empty(LANES, dtype)
    for frame in range(0, mel.shape[1], LANES):
        _window(samples[frame * hop :], hop, tables.window, even, odd)
        re, im = transform(even, odd, other_re, other_im, tables.passes, tables.turns)
        _power(re.reshape(n, LANES), im.reshape(n, LANES), tables.half_turns, bins, strongest)
        if magnitude:
            _square_root(bins, strongest)
        _filter(bins, tables.first, tables.offsets, tables.weights, bands)
        _faintest(bands, tables.sure, floor, strongest, faintest)
        mel[:, frame : frame + LANES] = bands
        unsure[frame : frame + LANES] = faintest < strongest


@compiled
def _window(samples, hop, window, even, odd):
    """LANES windowed frames: their samples of even and those of odd index, flat [n_fft/2, LANES], zeros after them."""
    pairs = len(window) // 2
    even[pairs * LANES :] = 0
    odd[pairs * LANES :] = 0
    for first in range(0, pairs, _PAIRS):
        count = min(_PAIRS, pairs - first)
        weights = window[2 * first : 2 * (first + count)]
        to_even = even[first * LANES : (first + count) * LANES]
        to_odd = odd[first * LANES : (first + count) * LANES]
        for lane in range(LANES):
            part = samples[lane * hop + 2 * first : lane * hop + 2 * (first + count)]
            for k in range(count):
                to_even[LANES * k + lane] = part[2 * k] * weights[2 * k]
                to_odd[LANES * k + lane] = part[2 * k + 1] * weights[2 * k + 1]


@compiled
def _power(re, im, half_turns, bins, strongest):
    """|X|² of real frames, [≥ n_fft/2 + 1, LANES], from the transforms of even + i·odd samples, [n_fft/2, LANES] each.

    Source: W. H. Press et al., Numerical Recipes (2007), section 12.3.2.
    """
    n, half = len(re), half_turns.dtype.type(0.5)
    for j in range(LANES):
        lowest, highest = re[0, j] + im[0, j], re[0, j] - im[0, j]
        bins[0, j], bins[n, j] = lowest * lowest, highest * highest
        strongest[j] = max(bins[0, j], bins[n, j])
    for k in range(1, n):
        x, y = half * half_turns[0, k], half * half_turns[1, k]
        for j in range(LANES):
            odd_re, odd_im = im[k, j] + im[n - k, j], re[n - k, j] - re[k, j]
            bin_re = half * (re[k, j] + re[n - k, j]) + (odd_re * x - odd_im * y)
            bin_im = half * (im[k, j] - im[n - k, j]) + (odd_re * y + odd_im * x)
            power = bin_re * bin_re + bin_im * bin_im
            bins[k, j] = power
            strongest[j] = power if power > strongest[j] else strongest[j]


@compiled
def _square_root(bins, strongest):
    for k in range(len(bins)):
        for j in range(LANES):
            bins[k, j] = np.sqrt(bins[k, j])
    for j in range(LANES):
        strongest[j] = np.sqrt(strongest[j])


@compiled
def _filter(bins, first, offsets, weights, bands):
    """filters @ bins: [n_mels, LANES]."""
    for i in range(len(bands)):
        for j in range(LANES):
            bands[i, j] = 0
        k = first[i]
        for at in range(offsets[i], offsets[i + 1], _STEP):
            a, b, c, d = weights[at], weights[at + 1], weights[at + 2], weights[at + 3]
            for j in range(LANES):
                bands[i, j] += (a * bins[k, j] + b * bins[k + 1, j]) + (c * bins[k + 2, j] + d * bins[k + 3, j])
            k += _STEP


@compiled
def _faintest(bands, sure, floor, strongest, faintest):
    """[LANES] the faintest filter's value above the floor, times what is sure; at most the strongest bin."""
    for j in range(LANES):
        faintest[j] = strongest[j]
    for i in range(len(bands)):
        for j in range(LANES):
            value = bands[i, j] * sure[i]
            faintest[j] = value if (bands[i, j] > floor) & (value < faintest[j]) else faintest[j]


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
