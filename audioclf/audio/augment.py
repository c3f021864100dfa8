"""Waveform augmentation: parameters are drawn apart from being applied, so that any copy can be made again."""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import xxhash

from audioclf.audio import rubberband
from audioclf.audio.compression import COMPRESSORS
from audioclf.errors import SchemaError


@dataclass(frozen=True)
class Transform:
    """Drawn changes of a waveform, in the order in which they are applied. The defaults change nothing.

    Attributes:
        stretch: duration factor; 1.5 is one and a half times as long.
        pitch_semitones: upwards; 12 is an octave. Stretched and shifted in one pass of the engine.
        compression: a name of COMPRESSORS.
        background: name of a background recording, mixed in with background_weight w: (1 − w)·x + w·y.
        background_position: where in the recording its part begins: 0 is its beginning, 1 as late as it can.
        gain_db: level added.
        snr_db: level of the sound above white noise that is added, drawn with noise_seed.
        shift_s: moved later by so much, what leaves at the end coming in at the beginning.
    """

    stretch: float = 1.0
    pitch_semitones: float = 0.0
    compression: str = ""
    background: str = ""
    background_position: float = 0.0
    background_weight: float = 0.0
    gain_db: float = 0.0
    snr_db: float = np.inf
    noise_seed: int = 0
    shift_s: float = 0.0

    def to_json(self) -> str:
        """The fields that change something."""
        changed = {f.name: value for f in dataclasses.fields(self) if (value := getattr(self, f.name)) != f.default}
        return json.dumps(changed, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "Transform":
        """Raises SchemaError for parameters that this version does not know."""
        try:
            return cls(**json.loads(text))
        except TypeError as error:
            raise SchemaError(f"transform_params {text}: not a transform of this version") from error

    @property
    def needs_engine(self) -> bool:
        """Whether Rubber Band has something to do."""
        return (self.stretch, self.pitch_semitones) != (1, 0)


@dataclass(frozen=True)
class TransformSet:
    """A named way to draw transforms.

    Attributes:
        meaning: in a few words.
        choices: the copies of a segment take them in turn, in an order drawn for the segment.
        ranges: fields drawn evenly between two bounds, anew for each copy.
        backgrounds: the background recordings are the choices.
    """

    meaning: str
    choices: tuple[Transform, ...] = (Transform(),)
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    backgrounds: bool = False

    @property
    def needs_engine(self) -> bool:
        """Whether Rubber Band may have something to do."""
        return any(choice.needs_engine for choice in self.choices) or bool(
            {"stretch", "pitch_semitones"} & {*self.ranges}
        )


ORIGINAL = "none"
"""The transform_set of copy 0."""

# ts to bg: Salamon & Bello 2017 (arXiv 1608.04363); their stretch is a tempo, so a duration factor is its inverse.
# gain: Tokozume, Ushiku & Harada 2018 (arXiv 1711.10282).
TRANSFORM_SETS = {
    "ts": TransformSet(
        "time stretched to 0.81 to 1.23 times the tempo",
        tuple(Transform(stretch=1 / tempo) for tempo in (0.81, 0.93, 1.07, 1.23)),
    ),
    "ps1": TransformSet(
        "pitch shifted by 1 or 2 semitones", tuple(Transform(pitch_semitones=p) for p in (-2.0, -1.0, 1.0, 2.0))
    ),
    "ps2": TransformSet(
        "pitch shifted by 2.5 or 3.5 semitones", tuple(Transform(pitch_semitones=p) for p in (-3.5, -2.5, 2.5, 3.5))
    ),
    "drc": TransformSet(
        "dynamic range compressed", tuple(Transform(compression=name) for name in COMPRESSORS)
    ),
    "bg": TransformSet(
        "a background recording mixed in, its weight 0.1 to 0.5",
        ranges={"background_position": (0, 1), "background_weight": (0.1, 0.5)},
        backgrounds=True,
    ),
    "stretch-pitch": TransformSet(
        "stretched to 0.8 to 1.25 times the duration and pitch shifted by up to 2 semitones, at once",
        ranges={"stretch": (0.8, 1.25), "pitch_semitones": (-2, 2)},
    ),
    "gain": TransformSet("louder or softer by up to 6 dB", ranges={"gain_db": (-6, 6)}),
    "noise": TransformSet("white noise, 10 to 30 dB below the sound", ranges={"snr_db": (10, 30)}),
    "shift": TransformSet("moved by up to 1 s, cyclically", ranges={"shift_s": (-1, 1)}),
}  # fmt: skip


def draw(
    name: str, number: int, seed: int, clip_id: str, segment_index: int, backgrounds: Sequence[str] = ()
) -> Transform:
    """The transform of one copy, the same on every machine and in every run.

    Args:
        name: of its transform set.
        number: which of the set's copies of the segment it is, from 0.
        seed: of the run.
        clip_id, segment_index: of the segment.
        backgrounds: names of the background recordings.
    """
    if name == ORIGINAL:
        return Transform()
    chosen = TRANSFORM_SETS[name]
    key = f"{seed}/{clip_id}/{segment_index}/{name}"
    choices = [Transform(background=one) for one in backgrounds] if chosen.backgrounds else chosen.choices
    turn = int(_rng(key).permutation(len(choices))[number % len(choices)])
    rng = _rng(f"{key}/{number}")
    drawn = {one: float(rng.uniform(*bounds)) for one, bounds in chosen.ranges.items()}
    if "pitch_semitones" in drawn:
        drawn["pitch_semitones"] = _nearest_cheap_pitch(drawn["pitch_semitones"])
    noise_seed = int(rng.integers(1 << 31)) if "snr_db" in drawn else 0
    return dataclasses.replace(choices[turn], **drawn, noise_seed=noise_seed)


def _nearest_cheap_pitch(semitones: float) -> float:
    """At most 4 cents away, a ratio of frequencies k/256: of any other, Rubber Band's resampler takes a third of all
    time to make its filter."""
    return 12 * math.log2(round(256 * 2 ** (semitones / 12)) / 256)


def _rng(key: str) -> np.random.Generator:
    return np.random.default_rng(xxhash.xxh3_64_intdigest(key.encode()))


def apply(
    transform: Transform,
    samples: np.ndarray,
    sample_rate: int,
    clip_uri: str,
    engine: rubberband.Engine = "r2",
    background: Callable[[str], np.ndarray] | None = None,
) -> np.ndarray:
    """Change a waveform.

    Args:
        transform: how.
        samples: [n] float32.
        sample_rate: Hz.
        clip_uri: for messages.
        engine: of Rubber Band.
        background: gives the samples, at the same rate, of a background recording by its name.

    Returns:
        [round(n · stretch)] float32. What is silent stays silent, but for a background.

    Raises:
        AugmentError: Rubber Band failed on these samples.
        EngineError: there is no Rubber Band.
    """
    if transform.needs_engine:
        samples = rubberband.stretch_and_shift(
            samples, sample_rate, transform.stretch, transform.pitch_semitones, engine, clip_uri
        )
    if transform.compression:
        samples = COMPRESSORS[transform.compression].apply(samples, sample_rate)
    if transform.background:
        assert background is not None
        samples = _mixed(samples, background(transform.background), transform)
    if transform.gain_db:
        samples = samples * np.float32(10 ** (transform.gain_db / 20))
    if transform.snr_db < np.inf:
        level = np.sqrt(np.mean(np.square(samples, dtype=np.float64)) / 10 ** (transform.snr_db / 10))
        noise = np.random.default_rng(transform.noise_seed).standard_normal(len(samples), np.float32)
        samples = samples + np.float32(level) * noise
    if transform.shift_s:
        samples = np.roll(samples, round(transform.shift_s * sample_rate))
    return samples


def _mixed(samples: np.ndarray, background: np.ndarray, transform: Transform) -> np.ndarray:
    """(1 − w)·x + w·y; a background shorter than the sound is repeated."""
    room = len(background) - len(samples)
    first = round(transform.background_position * room) if room > 0 else 0
    part = np.resize(background[first:], len(samples))
    weight = np.float32(transform.background_weight)
    return (1 - weight) * samples + weight * part
