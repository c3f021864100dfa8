"""Random changes to the waveforms of a training step: crop, speed, roll, gain, mixing. Plain torch, no Ray."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F

from audioclf.batch_augment import mix, mixture_weights
from audioclf.config import Training


@dataclass(frozen=True)
class WaveformAugment:
    """Changes a batch in four steps, each with its own random numbers for every row; a step at its default is left out.

    In this order: `crop`, `roll` and `gain` while a row is still one recording, so that the two parts of a mixture are
    cut, moved and raised each by itself; then mixing. Of two that are mixed, the row itself has the greater weight.

    The random numbers are those of torch's global generator, on the device of the waveforms: with the same seed before
    it, a batch is changed in the same way. It draws none when every step is off.

    Attributes:
        sample_rate: Hz.
        crop_samples: of the part that is left of each waveform; None: as many as it has.
        speed: how many times as fast, or as slow, a waveform is played at most; the logarithm is evenly drawn.
        roll_samples: furthest roll either way; half a waveform where that is less: every roll is within it.
        gain_db: greatest change of level either way.
        mixup_alpha: of the Beta distribution of the mixture.
        mixup_probability: with which a row is mixed with another.
        mixing: how; `between_class` takes into account how loud rows sound, `mixup` does not.
    """

    sample_rate: int
    crop_samples: int | None = None
    speed: float = 1.0
    roll_samples: int = 0
    gain_db: float = 0.0
    mixup_alpha: float = 0.0
    mixup_probability: float = 1.0
    mixing: Literal["mixup", "between-class"] = "mixup"

    @classmethod
    def of(cls, training: Training, sample_rate: int) -> "WaveformAugment":
        """What the flags ask for."""
        return cls(
            sample_rate, round(training.crop_s * sample_rate) or None, training.speed,
            round(training.roll_s * sample_rate), training.gain_db,
            training.wave_mixup_alpha, training.wave_mixup_probability, training.wave_mixing,
        )  # fmt: skip

    @property
    def moves_sound(self) -> bool:
        """Whether it is no longer known where in a row the padding begins."""
        return self.crop_samples is not None or self.speed != 1

    def __call__(self, waveforms: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """A changed batch; the one given stays as it is.

        Args:
            waveforms: [B, n] float32.
            targets: [B, C] float32.

        Returns:
            [B, n or crop_samples] float32, and [B, C] float32: no longer only zeros and ones where rows are mixed.
        """
        n, device = len(waveforms), waveforms.device
        n_samples = self.crop_samples or waveforms.shape[1]
        if not n:  # of which torch makes no Fourier transform
            return waveforms.new_zeros(0, n_samples) if self.crop_samples else waveforms, targets
        if self.moves_sound:
            speeds = self.speed ** (2 * torch.rand(n, device=device) - 1)
            waveforms = crop(waveforms, n_samples, speeds, torch.rand(n, device=device))
        if furthest := min(self.roll_samples, waveforms.shape[1] // 2):
            waveforms = roll(waveforms, torch.randint(-furthest, furthest + 1, (n,), device=device), furthest)
        if self.gain_db:
            waveforms = gain(waveforms, self.gain_db * (2 * torch.rand(n, device=device) - 1))
        if self.mixup_alpha and self.mixup_probability:
            drawn = mixture_weights(self.mixup_alpha, n, device)
            alone = torch.rand(n, device=device) >= self.mixup_probability
            weights = torch.maximum(drawn, 1 - drawn).to(waveforms.dtype).masked_fill(alone, 1)
            partners = torch.randperm(n, device=device)
            mixed = (
                mixup(waveforms, partners, weights)
                if self.mixing == "mixup"
                else between_class(waveforms, partners, weights, self.sample_rate)
            )
            waveforms, targets = torch.where(alone[:, None], waveforms, mixed), mix(targets, partners, weights)
        return waveforms, targets


def crop(waveforms: torch.Tensor, n_samples: int, speeds: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """A part of each of [B, n], so many samples long once it is played at its speed, which changes pitch and tempo.

    It lies within the sound (see `sounding`), or, where it is longer than that, the sound within it: a short call in a
    long file is not labelled silence. Beyond the waveform there are zeros. Values between two samples are on the line
    from one to the other.

    Args:
        waveforms: [B, n]
        n_samples: of each part.
        speeds: [B] 2 plays twice as fast, an octave higher.
        where: [B] from 0 to 1, from the first place that a part may have to the last.

    Source: the random crop and scale of Tokozume, Ushiku & Harada, "Learning from between-class examples for deep sound
    recognition" (2018), arXiv 1711.10282, who cut silence off the files beforehand.
    """
    first, end = sounding(waveforms)
    spans = (speeds * n_samples).round().long()
    starts = first + (where * (end - first - spans)).round().long()
    parts = zip(waveforms, starts.tolist(), spans.tolist(), strict=True)
    return torch.cat([played(_part(row, start, span)[None], n_samples) for row, start, span in parts])


def _part(row: torch.Tensor, start: int, span: int) -> torch.Tensor:
    return F.pad(row, (-start, start + span - len(row)))  # less than 0: taken away


def played(waveforms: torch.Tensor, n_samples: int) -> torch.Tensor:
    """Each of [B, n] so fast that it is n_samples long; values between two samples are on the line between them."""
    return F.interpolate(waveforms[:, None], n_samples, mode="linear", align_corners=True)[:, 0]


FAINTEST = 1e-3
"""Of a waveform's peak (−60 dB): before the first and after the last sample that is louder there is no sound."""
_BLOCK_SAMPLES = 32
"""Sound begins and ends with such a block, which is found sooner than a sample."""


def sounding(waveforms: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where in each of [B, n] the sound begins and ends, [B] int64 each, to a few samples; all of a silent one."""
    n = waveforms.shape[1]
    peaks = F.max_pool1d(waveforms.abs(), _BLOCK_SAMPLES, ceil_mode=True)
    loud = (peaks >= FAINTEST * peaks.amax(dim=1, keepdim=True)).byte()
    n_blocks = loud.shape[1]
    end = (n_blocks - loud.flip(1).argmax(dim=1)) * _BLOCK_SAMPLES
    return loud.argmax(dim=1) * _BLOCK_SAMPLES, end.clamp(max=n)


def roll(waveforms: torch.Tensor, samples: torch.Tensor, furthest: int) -> torch.Tensor:
    """Each of [B, n] moved by so many samples, [B] int64 from −furthest to furthest, later where above 0.

    What leaves one end enters the other; padding moves with the rest.
    """
    n = waveforms.shape[1]
    around = torch.cat([waveforms[:, n - furthest :], waveforms, waveforms[:, :furthest]], dim=1)
    rows = torch.arange(len(waveforms), device=waveforms.device)
    return around.unfold(1, n, 1)[rows, furthest - samples]


def gain(waveforms: torch.Tensor, amounts_db: torch.Tensor) -> torch.Tensor:
    """Each of [B, n] louder by its amount, [B]; beyond full scale nothing is clipped."""
    return waveforms * (10 ** (amounts_db / 20))[:, None]


def mixup(waveforms: torch.Tensor, partners: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """weight · row + (1 − weight) · partner, of rows whose mean is taken away.

    Args:
        waveforms: [B, n]
        partners: [B] indices of rows.
        weights: [B] from 0 to 1.

    Source: Zhang et al., "mixup" (2018), arXiv 1710.09412; on waveforms as Schmid et al., EfficientAT (2023), train.
    """
    return mix(waveforms - waveforms.mean(dim=1, keepdim=True), partners, weights)


def between_class(
    waveforms: torch.Tensor, partners: torch.Tensor, weights: torch.Tensor, sample_rate: int
) -> torch.Tensor:
    """(p · row + (1 − p) · partner) / sqrt(p² + (1 − p)²), with a p that lets the row be heard at its weight.

    p = 1 / (1 + 10^((g_row − g_partner) / 20) · (1 − weight) / weight), with each row's level g in dB: so two sounds
    mixed half and half are equally loud, however loud they were. Targets are mixed by the weights.

    Args:
        waveforms: [B, n]
        partners: [B] indices of rows.
        weights: [B] from 0 to 1.
        sample_rate: Hz.

    Source: Tokozume, Ushiku & Harada, "Learning from between-class examples for deep sound recognition" (2018),
    arXiv 1711.10282, equations 1 and 2. They mix rows of two classes; here a partner may be of the row's own.
    """
    levels = level_db(waveforms, sample_rate)
    ratios = 10 ** ((levels - levels[partners]) / 20)
    shares = 1 / (1 + ratios * (1 - weights) / weights)
    return mix(waveforms, partners, shares) / (shares.square() + (1 - shares).square()).sqrt()[:, None]


MIN_LEVEL_DB = -80.0


def level_db(waveforms: torch.Tensor, sample_rate: int) -> torch.Tensor:
    """How loud each of [B, n] is at its loudest, [B]: A-weighted power of a window of about 0.1 s, in dB.

    Windows are Hann's, of the nearest power of two, overlapping by half. As in the published computation the power is
    the sum over the bins of an unscaled Fourier transform; at least MIN_LEVEL_DB.
    """
    n_fft = 2 ** round(math.log2(0.1 * sample_rate))
    short = max(0, n_fft - waveforms.shape[1])
    frames = F.pad(waveforms, (0, short)).unfold(1, n_fft, n_fft // 2)
    spectra = torch.fft.rfft(frames * torch.hann_window(n_fft, device=waveforms.device))
    power = (spectra.real.square() + spectra.imag.square()) @ a_weights(sample_rate, n_fft).to(waveforms.device)
    return 10 * power.amax(dim=1).clamp(min=10 ** (MIN_LEVEL_DB / 10)).log10()


def a_weights(sample_rate: int, n_fft: int) -> torch.Tensor:
    """[1 + n_fft/2] float32: what A-weighting multiplies the power of each bin by; at least MIN_LEVEL_DB.

    Source: IEC 61672-1, annex E: four poles, and 0 dB at 1 kHz.
    """
    hz = torch.linspace(0, sample_rate / 2, 1 + n_fft // 2, dtype=torch.float64)
    f1, f2, f3, f4 = 20.598997, 107.65265, 737.86223, 12_194.217
    amplitudes = (f4**2 * hz**4) / ((hz**2 + f1**2) * (hz**2 + f2**2).sqrt() * (hz**2 + f3**2).sqrt() * (hz**2 + f4**2))
    return (amplitudes.square() * 10**0.2).clamp(min=10 ** (MIN_LEVEL_DB / 10)).float()
