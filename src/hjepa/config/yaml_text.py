"""YAML as this package reads it: one value per key, one line for a mistake."""

from __future__ import annotations

import re
from typing import Any

import yaml

from hjepa.errors import UserError

# `lr:0.1` is one text in YAML, and what follows it makes no sense; `http://` and `C:\` are meant as they are.
_SLIP = re.compile(r"\s*(?:- )?([A-Za-z_]\w*):([^\s:/\\]\S*)")


class _OncePerKey(yaml.SafeLoader):
    """PyYAML keeps the last of two equal keys and says nothing; what the first one asked for would be lost."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            # `<<` merges another mapping and may stand there several times.
            name = key.value if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge" else None
            if name in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {name!r} stands there twice", key.start_mark
                )
            if name is not None:
                seen.add(name)
        return super().construct_mapping(node, deep)


def parse_yaml(text: str, origin: str) -> Any:
    """Contents of a YAML text.

    Args:
        text: the text.
        origin: where it comes from, for messages.

    Raises:
        UserError: not YAML, or a key that stands there twice; with the line.
    """
    try:
        return yaml.load(text, _OncePerKey)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        for number, line in enumerate(text.splitlines()[: None if mark is None else mark.line + 1], start=1):
            slip = _SLIP.match(line)
            if slip:
                raise UserError(
                    f"{origin}, line {number}: a space is missing after the colon; write `{slip[1]}: {slip[2]}`"
                ) from None
        where = f", line {mark.line + 1}" if mark is not None else ""
        raise UserError(f"{origin}{where}: not valid YAML ({getattr(error, 'problem', error)})") from None
