"""Everything audioclf raises on purpose.

AudioclfError
├── ConfigError (ValueError)      a flag, a path or a file the user gave; found on the driver; exit 2
├── ClipError                     one clip; becomes a row in the rejects
│   ├── MissingClipError          listed in the manifest, no longer there
│   ├── UnreadableClipError       no permission, or not a file
│   ├── ChangedClipError          not the bytes that the manifest was made from
│   ├── DecodeError               not audio that libsndfile can read
│   ├── EmptyClipError            audio of no samples
│   ├── CrashedClipError          the process that decoded it died, each time
│   └── AugmentError              one augmented copy failed
├── StorageError                  a store that can't be reached or refuses us; stops the job
├── ClusterError                  the Ray cluster can't be reached; stops the job
├── LockLostError                 another run took this one's lock over; stops the job
├── EngineError                   the rubberband program is missing or broken on some machine
├── UnitCrashedError              a unit of work that kills its worker again and again
├── SchemaError                   a file that breaks a contract between stages
├── ConservationError             a planned row that is neither written nor rejected
├── TrainingError                 training can't go on: its loss is no number
├── DemoError                     a job of the demo did not end well
├── ExportError                   an exported network does not compute what its checkpoint does
└── CheckpointMismatchError       a network and its input do not belong together; exit 2
"""

from typing import ClassVar


class AudioclfError(Exception):
    """The root: catch this to catch everything audioclf raises on purpose.

    Attributes:
        may_go_on: whether the same command, given again, may get further.
    """

    may_go_on = True


class ConfigError(AudioclfError, ValueError):
    """Bad usage or configuration, found on the driver before any work is done."""


class ClipError(AudioclfError):
    """One clip can't be processed. All three arguments are in `args`, so it survives pickling.

    Attributes:
        may_pass: whether it lies in the circumstances, not in the file: another time the same file may be read.
    """

    may_pass: ClassVar[bool] = False

    def __init__(self, clip_uri: str, stage: str, message: str):
        super().__init__(clip_uri, stage, message)
        self.clip_uri, self.stage, self.message = clip_uri, stage, message

    def __str__(self) -> str:
        return f"{self.clip_uri}: {self.stage}: {self.message}"


class MissingClipError(ClipError):
    """The object named in the manifest does not exist."""

    may_pass = True


class UnreadableClipError(ClipError):
    """The file is there and may not be read."""

    may_pass = True


class ChangedClipError(ClipError):
    """The object has other bytes than when the manifest was made."""

    may_pass = True


class DecodeError(ClipError):
    """The bytes are not audio that can be decoded."""


class EmptyClipError(ClipError):
    """The file has no samples: a valid one, or one of no bytes."""


class CrashedClipError(ClipError):
    """Decoding the file kills the process that does it."""


class AugmentError(ClipError):
    """An augmented copy could not be made."""


class StorageError(AudioclfError):
    """A store can't be reached, or refuses the request."""


class AccessDeniedError(StorageError):
    """A store does not let these credentials read or write an object, or any: fetch.py tells which."""


class DiskError(StorageError):
    """A disk does not give back what is on it, of one file or of all: fetch.py tells which."""


class ClusterError(AudioclfError):
    """The Ray cluster that a job was to run on can't be reached."""


class LockLostError(AudioclfError):
    """Another run has taken this one's lock over, or may have: two must not write one output."""


class EngineError(AudioclfError):
    """The rubberband program is missing or broken."""


class UnitCrashedError(AudioclfError):
    """A unit of work kills its worker whatever care is taken."""


class SchemaError(AudioclfError):
    """A manifest, shard or policy file does not keep its contract."""


class ConservationError(AudioclfError):
    """Rows planned and rows committed do not add up."""


class TrainingError(AudioclfError):
    """Training can't go on: the loss is NaN or infinite."""

    may_go_on = False


class DemoError(AudioclfError):
    """A job of the demo did not end well."""


class ExportError(AudioclfError):
    """A format can't hold a network, or what it holds gives other logits than the checkpoint."""


class CheckpointMismatchError(AudioclfError):
    """Front end, vocabulary or network of a checkpoint differ from what it is used with."""


def may_pass(name: str) -> bool:
    """Whether the ClipError of this name, as rejects have it, lies in the circumstances; see there."""
    return globals()[name].may_pass
