"""Files of settings that people write, in YAML."""

from collections.abc import Iterator
from typing import Any

import yaml

from audioclf.errors import ConfigError
from audioclf.spelling import composed


def parse(text: str, name: str) -> Any:
    """What a file says; YAML's own parser would keep the last of two values given for one key, and say nothing.

    Args:
        text: its content.
        name: of the file, for messages.

    Raises:
        ConfigError: not YAML, or a key is given twice.
    """
    text = composed(text)  # as labels are
    try:
        content, root = yaml.safe_load(text), yaml.compose(text, yaml.SafeLoader)
    # ValueError: of a date that does not exist; AttributeError: of !!timestamp x; RecursionError: of thousands of [
    except (yaml.YAMLError, ValueError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{name}: not YAML: {' '.join(str(error).split())}") from error
    for mapping in _mappings(root):
        line_of: dict[str, int] = {}
        for key, _ in mapping.value:
            line = key.start_mark.line + 1
            if key.value in line_of:
                raise ConfigError(
                    f"{name}: {key.value}: given twice (line {line_of[key.value]}, line {line}); leave one of them out"
                )
            line_of[key.value] = line
    return content


def _mappings(root: yaml.Node | None) -> Iterator[yaml.MappingNode]:
    """All of them, each once: an alias may lead back to what it lies in."""
    waiting, seen = [root], set[int]()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            yield node
            waiting += [value for _, value in node.value]
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value
