"""What a network is trained on: patches of pictures, or pictures of waveforms."""

import numpy as np
import pytest
import torch

from audioclf import training, training_input
from audioclf.audio import pcm
from audioclf.audio.frontend import get_front_end
from audioclf.audio.log_mel import log_mel
from audioclf.audio.pcm import get_any_front_end
from audioclf.config import Training
from audioclf.errors import ConfigError
from audioclf.shards import Examples
from audioclf.training_input import TrainingInput
from audioclf.training_rows import MemoryRows

SPEC = get_front_end("logmel44k")
PCM = get_any_front_end("pcm44k")
CPU = torch.device("cpu")
RATE = 44_100


def sounds(n: int, seconds: float = 4.0) -> np.ndarray:
    rng = np.random.default_rng(0)
    return pcm.to_int16(rng.normal(scale=0.1, size=(n, round(seconds * RATE))).astype(np.float32))[:, None]


def seen(how: Training, stored: np.ndarray, frames: int | None = 128) -> tuple[torch.Tensor, torch.Tensor]:
    """What rows become that are of a class each."""
    made = TrainingInput(how, PCM, SPEC, frames, CPU)
    valid = np.full(len(stored), stored.shape[2])
    torch.manual_seed(0)
    return made(stored, valid, np.full(len(stored), 0.5), torch.eye(len(stored)), torch.zeros(128, 1))


def test_waveforms_become_patches_of_the_front_ends_pictures() -> None:
    stored = sounds(2)
    patches, _ = seen(Training(), stored)
    for patch, samples in zip(patches, stored[:, 0], strict=True):
        picture = log_mel(pcm.from_int16(samples), SPEC)
        start = int(0.5 * (picture.shape[1] - 128 + 1))
        np.testing.assert_allclose(patch, picture[:, start : start + 128], atol=0.01)


def test_level_and_roll_are_changed_once_on_the_waveforms() -> None:
    stored = sounds(2)
    plain, _ = seen(Training(), stored, None)
    louder, _ = seen(Training(gain_db=6), stored, None)
    change = (louder - plain).flatten(1)
    assert (change.amax(1) - change.amin(1) < 0.01).all()  # the same everywhere, as of a gain of the samples
    assert (change[:, 0].abs() <= 6).all()
    assert abs(float(change[0, 0] - change[1, 0])) > 0.01  # another for each row
    rolled, _ = seen(Training(roll_s=1.0), stored, None)
    # A roll by whole samples is none by whole frames: no column of the picture is that of another.
    assert float((rolled[0, :, :, None] - plain[0, :, None, :]).abs().mean(0).amin()) > 0.1


def test_crops_are_as_long_as_asked_for_and_cut_from_the_sound() -> None:
    stored = sounds(3)
    stored[:, :, RATE:] = 0  # 1 s of sound, 3 of silence
    pictures, _ = seen(Training(crop_s=0.5), stored, None)
    assert pictures.shape == (3, 128, 1 + 22_050 // 1024)
    assert (pictures[:, :, 1:-1] > -60).float().mean() > 0.999


def test_patches_lie_anywhere_in_a_crop_of_a_padded_row() -> None:
    made = TrainingInput(Training(crop_s=3.5), PCM, SPEC, 128, CPU)
    stored, last = sounds(1), np.full(1, 0.999)
    torch.manual_seed(0)
    padded, _ = made(stored, np.full(1, RATE), last, torch.eye(1), torch.zeros(128, 1))
    torch.manual_seed(0)
    full, _ = made(stored, np.full(1, 4 * RATE), last, torch.eye(1), torch.zeros(128, 1))
    assert torch.equal(padded, full)


def test_waveforms_are_mixed_with_their_labels() -> None:
    stored = sounds(6)
    patches, targets = seen(Training(wave_mixup_alpha=1.0), stored)
    plain, _ = seen(Training(), stored)
    torch.testing.assert_close(targets.sum(1), torch.ones(6))
    mixed = targets.amax(1) < 1
    assert mixed.any()
    assert ((patches - plain).abs().amax((1, 2)) > 0.1)[mixed].all()


def test_statistics_of_waveforms_are_those_of_their_pictures() -> None:
    stored = sounds(3)
    columns = {name: [str(i) for i in range(3)] for name in ("clip_id",)}
    valid = np.array([stored.shape[2], RATE, 2 * RATE])
    rows = MemoryRows(Examples(PCM, stored, valid, columns))
    pictures = [log_mel(pcm.from_int16(one), SPEC) for one in stored[:, 0]]
    pictures = [one[:, : SPEC.n_frames(int(n))] for one, n in zip(pictures, valid, strict=True)]
    together = np.concatenate(pictures, axis=1)
    mean, std = training_input.band_statistics(rows, SPEC)
    np.testing.assert_allclose(mean, together.mean(1), atol=0.02)
    np.testing.assert_allclose(std, together.std(1), atol=0.02)


@pytest.mark.parametrize("flags", [{"crop_s": 2.0}, {"speed": 1.25}, {"wave_mixup_alpha": 0.5}, {"mel_jitter": True}])
def test_pictures_are_no_waveforms(flags: dict[str, float | bool]) -> None:
    with pytest.raises(ConfigError, match="extract pcm32k or pcm44k"):
        TrainingInput(Training(**flags), SPEC, SPEC, None, CPU)  # pyright: ignore[reportArgumentType]


def test_the_front_end_is_the_shards_the_weights_or_the_users() -> None:
    assert training.front_end_of(SPEC, None, None) is SPEC
    assert training.front_end_of(PCM, None, None).name == "logmel44k"
    assert training.front_end_of(get_any_front_end("pcm32k"), None, None).name == "efficientat32k"
    panns = get_front_end("panns32k")
    assert training.front_end_of(get_any_front_end("pcm32k"), None, panns) is panns
    with pytest.raises(ConfigError, match="leave it out"):
        training.front_end_of(SPEC, None, panns)
    with pytest.raises(ConfigError, match="32000 Hz"):
        training.front_end_of(PCM, None, panns)
