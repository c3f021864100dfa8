"""Random changes to the patches of a training step: roll, gain, mixup, masks. Plain torch, no Ray."""

import math
from dataclasses import dataclass, replace

import torch
from torchaudio.transforms import FrequencyMasking, TimeMasking

from audioclf.audio.frontend import FrontEnd
from audioclf.config import Training
from audioclf.errors import ConfigError


@dataclass(frozen=True)
class BatchAugment:
    """Changes a batch in four steps, each with its own random numbers for every row; a step at 0 is left out.

    In this order: `roll` and `gain` while a row is still one recording, so that the two parts of a mixture are moved
    and raised each by itself; then `mix`; `mask` last, so that what it hides shows through from no partner.

    The random numbers are those of torch's global generator, on the device of the patches: with the same seed before
    it, a batch is changed in the same way. It draws none when every step is off.

    Attributes:
        roll_frames: furthest roll either way; half a patch where that is less: every roll is within it.
        gain: greatest change of level either way, in the unit of the patches.
        mixup_alpha: of the Beta distribution of the mixture.
        mask_bands, mask_frames: greatest width of a mask; the whole patch where that is less.
        n_masks: of each of the two kinds; they may overlap.
    """

    roll_frames: int = 0
    gain: float = 0.0
    mixup_alpha: float = 0.0
    mask_bands: int = 0
    mask_frames: int = 0
    n_masks: int = 2

    @classmethod
    def of(cls, training: Training, front_end: FrontEnd, of_waveforms: bool = False) -> "BatchAugment":
        """What the flags ask for, in the front end's units.

        Args:
            training: the flags.
            front_end: of the pictures.
            of_waveforms: these are rolled and raised before they become pictures.

        Raises:
            ConfigError: the front end's pictures can't be changed so.
        """
        if of_waveforms:
            training = replace(training, roll_s=0.0, gain_db=0.0)
        roll_frames = math.floor(training.roll_s * front_end.sample_rate / front_end.hop_length)
        if training.roll_s > 0 and roll_frames == 0:
            frame_s = front_end.hop_length / front_end.sample_rate
            raise ConfigError(
                f"--roll-s {training.roll_s:g}: a frame of {front_end.name} is {frame_s:.3g} s, make it more"
            )
        gain = training.gain_db * per_db(front_end) if training.gain_db else 0.0
        return cls(
            roll_frames, gain, training.mixup_alpha, training.mask_bands, training.mask_frames, training.n_masks
        )  # fmt: skip

    def __call__(
        self, patches: torch.Tensor, targets: torch.Tensor, mean: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A changed batch; the one given stays as it is.

        Args:
            patches: [B, M, T] float32.
            targets: [B, C] float32.
            mean: [M, 1] of each band, what masks put in place of what they hide.

        Returns:
            [B, M, T] float32, and [B, C] float32: no longer only zeros and ones where rows are mixed.
        """
        n, device = len(patches), patches.device
        if furthest := min(self.roll_frames, patches.shape[2] // 2):
            patches = roll(patches, torch.randint(-furthest, furthest + 1, (n,), device=device))
        if self.gain:
            patches = gain(patches, self.gain * (2 * torch.rand(n, device=device) - 1))
        if self.mixup_alpha:
            weights = mixture_weights(self.mixup_alpha, n, device).to(patches.dtype)
            partners = torch.randperm(n, device=device)
            patches, targets = mix(patches, partners, weights), mix(targets, partners, weights)
        if self.mask_bands or self.mask_frames:
            patches = mask(patches, mean, self.mask_bands, self.mask_frames, self.n_masks)
        return patches, targets


def per_db(front_end: FrontEnd) -> float:
    """What a front end's values rise by when the waveform is made 1 dB louder.

    Exactly so for values well above its floor and its log_offset.

    Raises:
        ConfigError: its pictures are of cosine coefficients, not of bands.
    """
    if front_end.n_mfcc:
        raise ConfigError(f"--gain-db: {front_end.name} gives cosine coefficients, which have no level; leave it out")
    per_ten_db = {"db": 10.0, "ln": math.log(10)}[front_end.log] / front_end.std
    return per_ten_db * front_end.power / 20


def roll(patches: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
    """Each of [B, M, T] moved by so many frames, [B] int64, later where above 0; what leaves one end enters the other.

    Padding moves with the rest.
    """
    n_frames = patches.shape[2]
    times = (torch.arange(n_frames, device=patches.device) - frames[:, None]) % n_frames
    return patches.gather(2, times[:, None, :].expand_as(patches))


def gain(patches: torch.Tensor, amounts: torch.Tensor) -> torch.Tensor:
    """Each of [B, M, T] raised by its amount, [B], as by another recording level.

    So are padding and silence, which no recording level would lift off the front end's floor.
    """
    return patches + amounts[:, None, None]


def mixture_weights(alpha: float, n: int, device: torch.device) -> torch.Tensor:
    """[n] float64 of Beta(alpha, alpha): of a small alpha, most are too close to 0 or 1 to be drawn in float32."""
    parameter = torch.tensor(alpha, dtype=torch.float64, device=device)
    return torch.distributions.Beta(parameter, parameter).sample((n,))


def mix(values: torch.Tensor, partners: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """weight · row + (1 − weight) · partner.

    Args:
        values: [B, …]
        partners: [B] indices of rows.
        weights: [B] from 0 to 1.

    Source: Zhang et al., "mixup: Beyond empirical risk minimization" (2018), arXiv 1710.09412. Its listing
    draws one weight for a batch; here each row has its own.
    """
    weights = weights.reshape(-1, *[1] * (values.dim() - 1))
    return weights * values + (1 - weights) * values[partners]


def mask(patches: torch.Tensor, mean: torch.Tensor, bands: int, frames: int, n_masks: int) -> torch.Tensor:
    """Each of [B, M, T] with its mean [M, 1] over n_masks ranges of bands, and over as many of frames.

    A range is from 0 to `bands` (or `frames`) wide, each width as probable. As in the paper, it begins anywhere in
    [0, size − width), and so never hides the last band or frame, unless it hides all.

    Source: Park et al., "SpecAugment" (2019), arXiv 1904.08779: its masks, without the time warping.
    """
    n, n_bands, n_frames = patches.shape
    # torchaudio takes the floor of a width evenly drawn from [0, parameter): parameter - 1 is the greatest.
    over_bands = FrequencyMasking(min(bands, n_bands) + 1, iid_masks=True)
    over_frames = TimeMasking(min(frames, n_frames) + 1, iid_masks=True)
    shown_bands, shown_frames = patches.new_ones(n, n_bands, 1), patches.new_ones(n, 1, n_frames)
    for _ in range(n_masks):
        shown_bands = over_bands(shown_bands) if bands else shown_bands
        shown_frames = over_frames(shown_frames) if frames else shown_frames
    return torch.where((shown_bands * shown_frames).bool(), patches, mean)
