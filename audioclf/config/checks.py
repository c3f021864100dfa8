"""What every configuration is checked with."""

from audioclf.errors import ConfigError

MIN_MEMORY_MB = 500
"""Of a worker: its libraries take more than half of it."""


def require(holds: bool, message: str) -> None:
    """Raise ConfigError with the message unless it holds."""
    if not holds:
        raise ConfigError(message)
