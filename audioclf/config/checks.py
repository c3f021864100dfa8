"""What every configuration is checked with."""

from audioclf.errors import ConfigError

SHORTEST_S = 0.01
"""Of a segment, a window, or from one to the next: shorter ones are a mistake, and would be without number."""

MIN_MEMORY_MB = 500
"""Of a worker: its libraries take more than half of it."""


def require(holds: bool, message: str) -> None:
    """Raise ConfigError with the message unless it holds."""
    if not holds:
        raise ConfigError(message)
