"""The log-mel front end on torch, for training that changes waveforms: a batch at a time, on any device."""

import dataclasses
import functools
import math
from dataclasses import dataclass

import numpy as np
import scipy.fft
import torch
import torch.nn.functional as F
from torch import nn

from audioclf.audio.frontend import FrontEnd, mirrored
from audioclf.audio.pcm import INT16_SCALE
from audioclf.errors import ConfigError

_BLOCK_SAMPLES = {"cpu": 1 << 19}
_BLOCK_SAMPLES_ELSEWHERE = 1 << 26
"""Samples in the frames of the rows computed at once: on a CPU what the cache holds, elsewhere 256 MB of memory."""


@dataclass(frozen=True)
class MelJitter:
    """Whole Hz between which the ends of the mel range are drawn for each batch of training, both bounds included."""

    f_min_hz: tuple[int, int]
    f_max_hz: tuple[int, int]


EFFICIENTAT_JITTER = MelJitter((0, 9), (14_001, 16_000))
"""As the networks of Schmid et al., EfficientAT (2023), were trained."""


class TorchFrontEnd(nn.Module):
    """Waveforms → pictures: what audioclf.audio.frontend.log_mel makes of each row, as float32.

    It computes in float32 under autocast too, and keeps no gradients. Values 105 dB and more below their frame's
    strongest bin, which log_mel computes once more in double precision, are as float32 has them. TF32
    (`torch.set_float32_matmul_precision`) moves values by up to 0.005 dB.

    Args:
        spec: the front end.
        jitter: in training mode, draw the ends of the mel range for each batch from torch's global generator; nothing
            is drawn where it is None.

    Raises:
        ConfigError: the jitter leaves the range from 0 Hz to half the sample rate.
    """

    window: torch.Tensor
    dct: torch.Tensor

    def __init__(self, spec: FrontEnd, jitter: MelJitter | None = None):
        super().__init__()
        self.spec, self.jitter = spec, jitter
        if jitter:
            _check(jitter, spec)
        # In double precision first, as log_mel has it.
        window = torch.hann_window(spec.win_length, periodic=spec.periodic_window, dtype=torch.float64)
        dct = np.asarray(scipy.fft.dct(np.eye(spec.n_mels), axis=0, norm="ortho"))[: spec.n_mfcc]
        self.register_buffer("window", window.float(), persistent=False)
        self.register_buffer("dct", torch.from_numpy(dct).float(), persistent=False)

    @torch.no_grad()
    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        """[B, n] float32 at spec.sample_rate → [B, n_features, n_frames] float32."""
        n_frames, device = self.spec.n_frames(waveforms.shape[1]), waveforms.device
        filters = _filters(self._drawn_spec(), device)
        if not len(waveforms):  # of which torch makes no Fourier transform
            return torch.empty(0, self.spec.n_features, n_frames, device=device)
        block = _BLOCK_SAMPLES.get(device.type, _BLOCK_SAMPLES_ELSEWHERE)
        rows = max(1, block // (n_frames * self.spec.n_fft))
        with torch.autocast(device.type, enabled=False):
            return torch.cat([self._pictures(some.float(), n_frames, filters) for some in waveforms.split(rows)])

    def _drawn_spec(self) -> FrontEnd:
        if not (self.jitter and self.training):
            return self.spec
        ranges = self.jitter.f_min_hz, self.jitter.f_max_hz
        f_min_hz, f_max_hz = (float(torch.randint(lowest, highest + 1, ())) for lowest, highest in ranges)
        return dataclasses.replace(self.spec, f_min_hz=f_min_hz, f_max_hz=f_max_hz)

    def _pictures(self, waveforms: torch.Tensor, n_frames: int, filters: "_Filters") -> torch.Tensor:
        spec = self.spec
        if spec.pre_emphasis:
            waveforms = waveforms[:, 1:] - spec.pre_emphasis * waveforms[:, :-1]
        frames = _padded(waveforms, spec, n_frames).unfold(1, spec.win_length, spec.hop_length)[:, :n_frames]
        spectra = torch.fft.rfft(frames * self.window, n=spec.n_fft)
        power = spectra.real.square() + spectra.imag.square()
        if spec.power == 1:
            power = power.sqrt()
        mel = torch.cat([power[..., bins] @ weights for bins, weights in filters], dim=2)
        return self._compressed(mel).mT.contiguous()

    def _compressed(self, mel: torch.Tensor) -> torch.Tensor:
        """The steps from the logarithm on, of [B, n_frames, n_mels]."""
        spec = self.spec
        values = (mel.clamp(min=spec.floor) + spec.log_offset).log()
        if spec.log == "db":
            values *= 10 / math.log(10)
        if spec.top_db is not None:
            values = values.maximum(values.amax((1, 2), keepdim=True) - spec.top_db)
        if spec.n_mfcc:
            values = values @ self.dct.T
        return (values - spec.mean) / spec.std


_Filters = tuple[tuple[slice, torch.Tensor], ...]
"""Of some neighbouring filters after the other: the bins that they take, and [bins, filters]."""


_FILTERS_IN_BAND = 16  # fewer: more and smaller products; more: more zeros in each


@functools.lru_cache(8)
def _filters(spec: FrontEnd, device: torch.device) -> _Filters:
    """On a CPU in bands, as most of the matrix is zeros; elsewhere one product is quicker than many."""
    filters = spec.filters()
    if device.type == "cpu":
        return tuple(_band(filters[at : at + _FILTERS_IN_BAND]) for at in range(0, len(filters), _FILTERS_IN_BAND))
    return ((slice(None), torch.from_numpy(filters).to(device).T),)


def _band(filters: np.ndarray) -> tuple[slice, torch.Tensor]:
    taken = np.flatnonzero(filters.any(axis=0))
    bins = slice(int(taken[0]), int(taken[-1]) + 1) if len(taken) else slice(0)
    return bins, torch.from_numpy(np.ascontiguousarray(filters[:, bins].T))


def to_waveforms(pcm: torch.Tensor) -> torch.Tensor:
    """[B, 1, n] int16, as shards of waveforms have them → [B, n] float32 within ±1."""
    return pcm.squeeze(1).float() / INT16_SCALE


def _check(jitter: MelJitter, spec: FrontEnd) -> None:
    lowest, begin = jitter.f_min_hz
    end, highest = jitter.f_max_hz
    if not 0 <= lowest <= begin < end <= highest <= spec.sample_rate / 2:
        raise ConfigError(
            f"front end {spec.name}: a mel range from {lowest} to {begin} Hz up to {end} to {highest} Hz is none "
            f"between 0 and {spec.sample_rate / 2:g} Hz; drop the jitter, or narrow it"
        )


def _padded(waveforms: torch.Tensor, spec: FrontEnd, n_frames: int) -> torch.Tensor:
    """[B, …] such that frame t begins at sample t·hop_length."""
    n, before = waveforms.shape[1], spec.before
    after = max(0, (n_frames - 1) * spec.hop_length + spec.win_length - before - n)
    if not spec.center or spec.pad_mode == "constant" or n == 0:
        return F.pad(waveforms, (before, after))
    ends = np.arange(-before, 0), np.arange(n, n + after)
    left, right = (waveforms[:, torch.from_numpy(mirrored(end, n)).to(waveforms.device)] for end in ends)
    return torch.cat([left, waveforms, right], dim=1)
