"""Files of settings that people write, in YAML."""

from collections.abc import Iterator
from typing import Any

import yaml

from audioclf.errors import ConfigError


def parse(text: str, name: str) -> Any:
    """What a file says; YAML's own parser would keep the last of two values given for one key, and say nothing.

    Args:
        text: its content.
        name: of the file, for messages.

    Raises:
        ConfigError: not YAML, or a key is given twice.
    """
    try:
        content, root = yaml.safe_load(text), yaml.compose(text, yaml.SafeLoader)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: of a date that does not exist
        raise ConfigError(f"{name}: not YAML: {' '.join(str(error).split())}") from error
    for mapping in _mappings(root):  # keys are scalars: the parser refuses others
        line_of: dict[str, int] = {}
        for key, _ in mapping.value:
            line = key.start_mark.line + 1
            if key.value in line_of:
                raise ConfigError(
                    f"{name}: {key.value}: given twice (line {line_of[key.value]}, line {line}); leave one of them out"
                )
            line_of[key.value] = line
    return content


def _mappings(node: yaml.Node | None) -> Iterator[yaml.MappingNode]:
    if isinstance(node, yaml.MappingNode):
        yield node
        for _, value in node.value:
            yield from _mappings(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _mappings(value)
