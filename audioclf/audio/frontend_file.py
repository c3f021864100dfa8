"""A user's own front end: a YAML file of FrontEnd's fields, and what any front end must satisfy."""

import dataclasses
import difflib
import logging
import math
import typing
from typing import Any

import numpy as np

from audioclf.audio.frontend import FRONT_ENDS, FrontEnd
from audioclf.audio.pcm import PCM_FRONT_ENDS, differences
from audioclf.errors import ConfigError

log = logging.getLogger("audioclf")

_TYPES = {field.name: typing.get_type_hints(FrontEnd)[field.name] for field in dataclasses.fields(FrontEnd)}
_REQUIRED = [field.name for field in dataclasses.fields(FrontEnd) if field.default is dataclasses.MISSING]
_MAX_FFT, _MAX_MELS = 65_536, 1_024  # beyond them a slip of the pen is likelier than a purpose
_FLOAT16_MAX = 65_504  # pictures are stored as float16


def load_front_end(text: str, name: str) -> FrontEnd:
    """The front end that a YAML file describes.

    Its keys are FrontEnd's fields; `base: NAME` takes those that are not there from a built-in front end.

    Args:
        text: the file's contents.
        name: what messages call the file.

    Raises:
        ConfigError: naming the file, the field and the remedy.
    """
    fields = _mapping(text, name)
    base = fields.pop("base", None)
    for key in fields:
        if key not in _TYPES:
            raise ConfigError(f"{name}: no field of a front end is called {key!r}{_instead(key)}")
    given = {key: _typed(key, value, name) for key, value in fields.items()}
    if base is not None:
        given = _on_base(base, given, name)
    if missing := [field for field in _REQUIRED if field not in given]:
        raise ConfigError(
            f"{name}: {', '.join(missing)} missing; write them, or `base: NAME` to take them from a named one"
        )
    spec = FrontEnd(**given)
    if spec.name in FRONT_ENDS and (difference := differences(FRONT_ENDS[spec.name], spec)):
        raise ConfigError(f"{name}: name: {spec.name} is built in, and differs ({difference}); choose another name")
    if spec.name in PCM_FRONT_ENDS:
        raise ConfigError(f"{name}: name: {spec.name} is built in, and keeps waveforms; choose another name")
    check(spec, name)
    return spec


def check(spec: FrontEnd, where: str | None = None) -> None:
    """Refuse values that no picture can be computed with; warn of filters that stay empty.

    Args:
        spec: the front end.
        where: what messages begin with; default: its name.

    Raises:
        ConfigError: naming where, the field and the remedy.
    """
    where = where or f"front end {spec.name}"
    for holds, message in _requirements(spec):
        if not holds:
            raise ConfigError(f"{where}: {message}")
    _check_filters(spec, where)


def _requirements(spec: FrontEnd) -> typing.Iterator[tuple[bool, str]]:
    """What must hold, in an order in which each may rely on those before it."""
    for field, kind in _TYPES.items():
        value = getattr(spec, field)
        yield not isinstance(value, float) or math.isfinite(value), f"{field}: {value} is not a finite number"
        if choices := typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else ():
            yield value in choices, f"{field}: {value!r} is none of {', '.join(choices)}"
    for field in ("sample_rate", "hop_length"):
        yield getattr(spec, field) >= 1, f"{field}: {getattr(spec, field)} must be 1 or more"
    yield 1 <= spec.n_mels <= _MAX_MELS, f"n_mels: {spec.n_mels} must lie between 1 and {_MAX_MELS}"
    yield bool(spec.name.strip()), "name: is empty; give the front end a name of its own"
    yield 2 <= spec.n_fft <= _MAX_FFT, f"n_fft: {spec.n_fft} must lie between 2 and {_MAX_FFT}"
    yield spec.n_fft % 2 == 0, f"n_fft: {spec.n_fft} must be even"
    yield (
        2 <= spec.win_length <= spec.n_fft,
        (f"win_length: {spec.win_length} must lie between 2 and n_fft ({spec.n_fft}); raise n_fft for a longer window"),
    )
    yield spec.periodic_window or spec.win_length > 2, "win_length: a symmetric window of 2 is 0; take 3 or more"
    yield spec.f_min_hz >= 0, f"f_min_hz: {spec.f_min_hz} must be 0 or more"
    yield spec.f_max_hz > spec.f_min_hz, f"f_max_hz: {spec.f_max_hz} must be above f_min_hz ({spec.f_min_hz})"
    nyquist = spec.sample_rate / 2
    yield (
        spec.f_max_hz <= nyquist,
        (f"f_max_hz: {spec.f_max_hz} is above {nyquist}, half of sample_rate; lower it, or raise sample_rate"),
    )
    yield 0 <= spec.pre_emphasis <= 1, f"pre_emphasis: {spec.pre_emphasis} must lie between 0 and 1"
    yield spec.power in (1, 2), f"power: {spec.power} must be 1 (magnitude) or 2 (power)"
    yield spec.floor >= 0, f"floor: {spec.floor} must be 0 or more"
    yield spec.log_offset >= 0, f"log_offset: {spec.log_offset} must be 0 or more"
    yield (
        spec.floor + spec.log_offset >= float(np.finfo(np.float32).tiny),
        (f"floor: {spec.floor} with log_offset {spec.log_offset} leaves silence no logarithm; set one to 1e-10 or so"),
    )
    yield spec.top_db is None or spec.top_db > 0, f"top_db: {spec.top_db} must be positive, or null for no bound"
    yield spec.top_db is None or spec.log == "db", "top_db: bounds decibels; leave it out, or set log: db"
    yield spec.std > 0, f"std: {spec.std} must be positive"
    yield 0 <= spec.n_mfcc <= spec.n_mels, f"n_mfcc: {spec.n_mfcc} must lie between 0 and n_mels ({spec.n_mels})"
    extreme = _extreme(spec)
    yield (
        extreme <= _FLOAT16_MAX,
        (f"std: {spec.std} makes values of {extreme:.0f}, which float16 cannot hold; raise it, or bring mean nearer"),
    )


def _extreme(spec: FrontEnd) -> float:
    """The largest value that silence, or sound at full scale, can have."""
    ends = np.array([spec.floor + spec.log_offset, float(spec.n_fft) ** spec.power])
    logs = 10 * np.log10(ends) if spec.log == "db" else np.log(ends)
    if spec.n_mfcc:
        logs *= math.sqrt(spec.n_mels)  # of all bands alike, the first coefficient
    return float(np.abs((logs - spec.mean) / spec.std).max())


def _check_filters(spec: FrontEnd, where: str) -> None:
    """Published front ends have a few empty filters, so that is allowed; a picture of nothing else is not."""
    empty = np.count_nonzero(~spec.filters().any(axis=1))
    remedy = "raise n_fft, lower n_mels or widen f_min_hz to f_max_hz"
    if empty == spec.n_mels:
        raise ConfigError(f"{where}: n_mels: no filter holds a bin of the Fourier transform; {remedy}")
    if empty:
        log.warning(
            "%s: n_mels: %d of %d filters hold no bin of the Fourier transform and stay at the floor; %s",
            where, empty, spec.n_mels, remedy,
        )  # fmt: skip


def _mapping(text: str, name: str) -> dict[str, Any]:
    from audioclf import yaml_files  # here: only a job that is given a file needs it

    fields = yaml_files.parse(text, name)
    if not isinstance(fields, dict):
        raise ConfigError(f"{name}: holds no fields; write one a line, as in `sample_rate: 44100`")
    return {str(key): value for key, value in fields.items()}


def _on_base(base: object, given: dict[str, Any], name: str) -> dict[str, Any]:
    """The fields of a built-in front end under those given."""
    if not isinstance(base, str) or base not in FRONT_ENDS:
        raise ConfigError(f"{name}: base: {base!r} is unknown; there are: {', '.join(sorted(FRONT_ENDS))}")
    if given and "name" not in given:
        raise ConfigError(f"{name}: name missing; what differs from {base} needs a name of its own")
    return FRONT_ENDS[base].to_dict() | given


def _instead(key: str) -> str:
    near = difflib.get_close_matches(key, _TYPES, n=1)
    return f"; perhaps {near[0]}" if near else f"; there are: {', '.join(_TYPES)}"


def _typed(key: str, value: Any, name: str) -> Any:
    """The value as its field's type."""
    kind, choices = _TYPES[key], typing.get_args(_TYPES[key])
    if typing.get_origin(kind) is typing.Literal:
        wanted, holds = f"one of {', '.join(choices)}", value in choices
    elif kind is bool:
        wanted, holds = "true or false", isinstance(value, bool)
    elif kind is str:
        wanted, holds = "text; put it in quotes", isinstance(value, str)
    elif kind is int:
        wanted, holds = "a whole number", isinstance(value, int) and not isinstance(value, bool)
    elif value is None:
        wanted, holds = "a number", type(None) in choices
    else:
        wanted, number = "a number", _number(value)
        holds, value = number is not None, value if number is None else number
    if not holds:
        raise ConfigError(f"{name}: {key}: {value!r} is not {wanted}")
    return value


def _number(value: object) -> float | None:
    """Text too: YAML takes 1e-10, without a point, for text."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None
