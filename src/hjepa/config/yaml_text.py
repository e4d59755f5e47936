"""YAML parsing that rejects duplicate keys and reports errors in one line."""

from __future__ import annotations

import re
from typing import Any

import yaml

from hjepa.errors import UserError

# YAML reads `lr:0.1` as a single string, which usually breaks the lines after it; `http://` and `C:\` are no typos.
_MISSING_SPACE = re.compile(r"\s*(?:- )?([A-Za-z_]\w*):([^\s:/\\]\S*)")


class _UniqueKeyLoader(yaml.SafeLoader):
    """Rejects duplicate keys, of which PyYAML silently keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            # `<<` merges another mapping and may be repeated.
            name = key.value if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge" else None
            if name in seen:
                raise yaml.constructor.ConstructorError(None, None, f"duplicate key {name!r}", key.start_mark)
            if name is not None:
                seen.add(name)
        return super().construct_mapping(node, deep)


def parse_yaml(text: str, origin: str) -> Any:
    """Parse YAML.

    Args:
        text: the text.
        origin: where it comes from, for messages.

    Raises:
        UserError: invalid YAML or a duplicate key; the message has the line number.
    """
    try:
        return yaml.load(text, _UniqueKeyLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        for number, line in enumerate(text.splitlines()[: None if mark is None else mark.line + 1], start=1):
            typo = _MISSING_SPACE.match(line)
            if typo:
                raise UserError(
                    f"{origin}, line {number}: missing space after the colon; write `{typo[1]}: {typo[2]}`"
                ) from None
        where = f", line {mark.line + 1}" if mark is not None else ""
        raise UserError(f"{origin}{where}: not valid YAML ({getattr(error, 'problem', error)})") from None
