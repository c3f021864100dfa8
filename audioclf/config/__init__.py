"""One frozen dataclass a job: its flags, their defaults and what they must satisfy."""

from audioclf.config.data import DemoConfig, ExtractConfig, HearConfig, Layout, ManifestConfig
from audioclf.config.export import ExportConfig
from audioclf.config.tagging import TagConfig
from audioclf.config.training import CrossvalConfig, EvaluateConfig, PolicyConfig, TrainConfig, Training, training_of

__all__ = [
    "CrossvalConfig",
    "DemoConfig",
    "EvaluateConfig",
    "ExportConfig",
    "ExtractConfig",
    "HearConfig",
    "Layout",
    "ManifestConfig",
    "PolicyConfig",
    "TagConfig",
    "TrainConfig",
    "Training",
    "training_of",
]
