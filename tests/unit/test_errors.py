"""Errors travel from Ray's workers to the driver."""

import pickle

from audioclf import errors


def test_every_error_survives_pickling() -> None:
    classes = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, errors.AudioclfError)]
    assert len(classes) >= 10
    for cls in classes:
        args = ("uri", "stage", "message") if issubclass(cls, errors.ClipError) else ("message",)
        again = pickle.loads(pickle.dumps(cls(*args)))
        assert type(again) is cls
        assert str(again) == str(cls(*args))
