"""One frozen dataclass a job: its flags, their defaults and what they must satisfy."""

from audioclf.config.data import DemoConfig, ExtractConfig, HearConfig, Layout, ManifestConfig
from audioclf.config.doctor import DoctorConfig
from audioclf.config.export import ExportConfig
from audioclf.config.report import ReportConfig
from audioclf.config.tagging import TagConfig
from audioclf.config.training import CrossvalConfig, EvaluateConfig, PolicyConfig, TrainConfig, Training, training_of

__all__ = [
    "CrossvalConfig",
    "DemoConfig",
    "DoctorConfig",
    "EvaluateConfig",
    "ExportConfig",
    "ExtractConfig",
    "HearConfig",
    "Layout",
    "ManifestConfig",
    "PolicyConfig",
    "ReportConfig",
    "TagConfig",
    "TrainConfig",
    "Training",
    "training_of",
]
