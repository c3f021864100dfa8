"""What becomes of a training batch before the network sees it. Plain torch, no Ray."""

import warnings
from collections.abc import Iterator

import numpy as np
import torch

from audioclf import waveforms
from audioclf.audio.frontend import FrontEnd
from audioclf.audio.pcm import AnyFrontEnd, Pcm
from audioclf.batch_augment import BatchAugment
from audioclf.config import Training
from audioclf.errors import ConfigError
from audioclf.torch_front_end import EFFICIENTAT_JITTER, TorchFrontEnd, to_waveforms
from audioclf.training_rows import Rows
from audioclf.waveform_augment import WaveformAugment


class TrainingInput:
    """Turns rows as shards hold them into what a network trains on.

    Shards of pictures: patches, and random changes to these. Shards of waveforms: random changes to the waveforms, the
    front end, patches, and those changes that are made to pictures alone.

    Args:
        training: which changes.
        stored: the front end of the shards.
        spec: the front end of the network: the same, or of waveforms of its rate; see `training.front_end_of`.
        patch_frames: of the network.
        device: that it is on.

    Raises:
        ConfigError: the shards can't be changed so.
    """

    def __init__(
        self, training: Training, stored: AnyFrontEnd, spec: FrontEnd, patch_frames: int | None, device: torch.device
    ):
        self._spec, self._patch_frames, self._device = spec, patch_frames, device
        self._pictures = BatchAugment.of(training, spec, of_waveforms=isinstance(stored, Pcm))
        self._front_end: TorchFrontEnd | None = None
        if isinstance(stored, Pcm):
            self._waveforms = WaveformAugment.of(training, spec.sample_rate)
            self._front_end = TorchFrontEnd(spec, EFFICIENTAT_JITTER if training.mel_jitter else None).to(device)
        elif training.wave_mixup_alpha or training.mel_jitter or training.crop_s or training.speed != 1:
            raise ConfigError(
                "--crop-s, --speed, --wave-mixup-alpha and --mel-jitter need shards of waveforms: "
                "extract pcm32k or pcm44k"
            )

    def __call__(
        self, rows: np.ndarray, valid_frames: np.ndarray, where: np.ndarray, targets: torch.Tensor, mean: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A batch for the network.

        Args:
            rows: [B, M, T] float16, or [B, 1, n] int16, as stored.
            valid_frames: [B] as stored.
            where: [B] numbers in [0, 1): how far into the row each patch begins.
            targets: [B, C] float32, on the device.
            mean: [M, 1] of each band, on the device.

        Returns:
            [B, M, T] float32 and [B, C] float32, on the device.
        """
        stored = as_tensor(rows)
        if self._front_end is None:
            pictures = cut_patches(stored, valid_frames, where, self._patch_frames).to(self._device)
        else:
            heard, targets = self._waveforms(to_waveforms(stored.to(self._device)), targets)
            if self._waveforms.moves_sound:
                valid_frames = np.full(len(rows), heard.shape[1])
            valid_frames = waveforms.valid_frames_of(valid_frames, self._spec)
            pictures = cut_patches(self._front_end(heard), valid_frames, where, self._patch_frames)
        return self._pictures(pictures, targets, mean)


def cut_patches(
    pictures: torch.Tensor, valid_frames: np.ndarray, where: np.ndarray, frames: int | None
) -> torch.Tensor:
    """A patch of each row.

    Args:
        pictures: [B, M, T].
        valid_frames: [B]; patches lie within them where they are long enough.
        where: [B] numbers in [0, 1): how far into the row each patch begins.
        frames: of a patch; None: rows are taken whole.

    Returns:
        [B, M, frames] float32.
    """
    if frames is None:
        return pictures.float()
    room = np.maximum(np.minimum(valid_frames, pictures.shape[2]) - frames, 0)
    starts = np.floor(where * (room + 1)).astype(np.int64)
    # A segment too short for a patch goes on with its last frame (padding).
    frames_of = np.minimum(starts[:, None] + np.arange(frames), pictures.shape[2] - 1)
    times = torch.from_numpy(frames_of).to(pictures.device)
    return torch.take_along_dim(pictures, times[:, None, :], dim=2).float()


def as_tensor(array: np.ndarray) -> torch.Tensor:
    """A tensor over the same memory, only to be read from."""
    with warnings.catch_warnings():
        # Arrays from Ray's object store are read-only, and torch knows no such tensors.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return torch.from_numpy(array)


STATISTICS_ROWS = 10_000
"""Rows, or somewhat more, that mean and deviation of each band are taken from where rows are streamed."""


def band_statistics(rows: Rows, spec: FrontEnd) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation [n_features] of each band over the frames that are not padding."""
    total, frames = np.zeros((2, spec.n_features)), 0
    for pictures, valid_frames in _sample(rows, spec):
        for picture, valid in zip(pictures, valid_frames, strict=True):
            real = picture[:, :valid].astype(np.float64)
            total += np.stack([real.sum(1), np.square(real).sum(1)])
            frames += int(valid)
    mean, square = total / frames
    std = np.sqrt(np.maximum(square - np.square(mean), 1e-6))
    return mean.astype(np.float32), std.astype(np.float32)


def _sample(rows: Rows, spec: FrontEnd) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pictures and valid frames of rows that stand for all."""
    sample = rows.sample(STATISTICS_ROWS, np.random.default_rng(0))
    batches = np.array_split(sample, -(-len(sample) // 64))
    for batch, stored in zip(batches, rows.batches(batches), strict=True):
        valid = rows.valid_frames[batch]
        if isinstance(rows.front_end, Pcm):
            yield waveforms.pictures_of(stored, spec), waveforms.valid_frames_of(valid, spec)
        else:
            yield stored, valid
