"""What every configuration is checked with."""

from audioclf.errors import ConfigError


def require(holds: bool, message: str) -> None:
    """Raise ConfigError with the message unless it holds."""
    if not holds:
        raise ConfigError(message)
