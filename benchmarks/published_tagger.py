"""Tagging in plain PyTorch, one clip after the other, as EfficientAT's authors publish it: librosa, their front end,
the network as it is. jobs/tag.py is measured against it, for its speed and for its probabilities.

Source: F. Schmid et al., "Efficient Large-Scale Audio Tagging Via Transformer-to-CNN Knowledge Distillation", 2023,
and the code published with it.
"""

import librosa
import numpy as np
import torch
import torch.nn.functional as F
from torchaudio.compliance import kaldi

from audioclf import checkpoint

SAMPLE_RATE = 32_000
N_FFT, WIN_LENGTH, HOP_LENGTH = 1024, 800, 320
N_MELS, F_MIN_HZ, F_MAX_HZ = 128, 0.0, 15_000.0
PRE_EMPHASIS = torch.tensor([[[-0.97, 1.0]]])
WINDOW = torch.hann_window(WIN_LENGTH, periodic=False)


def load(path: str) -> torch.Tensor:
    """A file's sound, [n] float32 at 32 kHz."""
    return torch.from_numpy(librosa.load(path, sr=SAMPLE_RATE)[0])


def log_mel(waveform: torch.Tensor) -> torch.Tensor:
    """[n] at 32 kHz to [128, T].

    The filters are made anew for every clip, as the published code does, since it draws their bounds in training; that
    takes less than a hundredth of the time.
    """
    emphasised = F.conv1d(waveform[None, None], PRE_EMPHASIS)[0]
    spectra = torch.stft(emphasised, N_FFT, HOP_LENGTH, WIN_LENGTH, WINDOW, center=True, return_complex=True)[0]
    power = torch.view_as_real(spectra).square().sum(-1)
    # vtln_low, vtln_high and vtln_warp_factor: no warping; nor does Kaldi have a filter at half the sample rate.
    filters, _ = kaldi.get_mel_banks(N_MELS, N_FFT, SAMPLE_RATE, F_MIN_HZ, F_MAX_HZ, 100.0, -500.0, 1.0)
    return (torch.log(F.pad(filters, (0, 1)) @ power + 1e-5) + 4.5) / 5


class PublishedTagger:
    """One network on the CPU, with as many threads as torch has been told to take."""

    def __init__(self, weights: str):
        """weights: NAME:FILE, one of EfficientAT's networks."""
        self._network = checkpoint.load_for(weights).network

    @torch.inference_mode()
    def logits(self, waveform: torch.Tensor) -> torch.Tensor:
        """[n] at 32 kHz to [527]."""
        return self._network(log_mel(waveform)[None])[0]

    def probabilities(self, path: str) -> np.ndarray:
        """[527] for a file, whatever its length."""
        return torch.sigmoid(self.logits(load(path))).numpy()

    def top(self, path: str, k: int) -> list[tuple[int, float]]:
        """The k likeliest classes of a file and their probabilities, the likeliest first."""
        probabilities = self.probabilities(path)
        return [(int(i), float(probabilities[i])) for i in np.argsort(-probabilities)[:k]]
