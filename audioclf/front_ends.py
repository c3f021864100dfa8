"""A front end as users name it."""

from audioclf import storage
from audioclf.audio.frontend import FrontEnd
from audioclf.audio.frontend_file import load_front_end
from audioclf.audio.pcm import AnyFrontEnd, get_any_front_end
from audioclf.errors import ConfigError

FILES = (".yaml", ".yml")


def read(name: str) -> AnyFrontEnd:
    """One by its name, or a user's own by its YAML file.

    Raises:
        ConfigError: no such name or file, or the file is no front end.
    """
    if name.endswith(FILES):
        return load_front_end(storage.read_text(storage.to_uri(name)), name)
    return get_any_front_end(name)


def portable(name: str) -> str:
    """The same for a process that has another working directory."""
    return storage.to_uri(name) if name.endswith(FILES) else name


def read_of_pictures(name: str) -> FrontEnd:
    """The same, of one that makes pictures. Raises ConfigError for one that keeps waveforms as well."""
    found = read(name)
    if not isinstance(found, FrontEnd):
        raise ConfigError(f"front end {name}: it keeps waveforms; a network takes pictures")
    return found
