"""Documentation made from the configuration tree: the reference table and the JSON schema."""

from __future__ import annotations

import re
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from hjepa.config.evidence import EVIDENCE
from hjepa.config.load import _section
from hjepa.config.root import Config


def json_schema() -> dict[str, Any]:
    """The JSON schema of the configuration file, for editors."""
    return Config.model_json_schema()


def rows(model: type[BaseModel] = Config, prefix: str = "") -> list[tuple[str, str, str, str]]:
    """(key, type, default, description) of every key, in order."""
    table: list[tuple[str, str, str, str]] = []
    for name, field in model.model_fields.items():
        section = _section(field.annotation)
        if section is not None:
            table += rows(section, f"{prefix}{name}.")
            continue
        default = field.get_default(call_default_factory=True, validated_data={})
        shown = "required" if default is PydanticUndefined else _plain(default)
        description = " ".join((field.description or "").split())
        table.append((f"{prefix}{name}", _type(field.annotation), shown, description))
    return table


def markdown() -> str:
    """The reference table as Markdown, one section per heading."""
    lines = [
        "# Configuration reference",
        "",
        "Made by `hjepa config show --reference`; every key with its default. What was measured of the options is",
        "[at the end](#options-that-were-measured).",
        "",
    ]
    current = None
    for key, kind, default, description in rows():
        section = key.split(".")[0] if "." in key else "run"
        if section != current:
            lines += ["", f"## {section}", "", "| key | type | default | meaning |", "|---|---|---|---|"]
            current = section
        kind = kind.replace("|", "\\|")
        lines.append(f"| `{key}` | {kind} | `{default}` | {description} |")
    return "\n".join([*lines, "", *_measured()]) + "\n"


def _measured() -> list[str]:
    """What was measured of options, with links to the rows of the log that say it."""
    lines = [
        "## Options that were measured",
        "",
        "Single seeds of short runs unless a row says otherwise, on test images;",
        "[how measured](results/README.md#how-measured-and-what-chose-the-recipe).",
        "",
        "| key | option | found | rows |",
        "|---|---|---|---|",
    ]
    for finding in EVIDENCE:
        links = ", ".join(f"[{row}](results/recipe.md#{row.lower()})" for row in finding.rows)
        lines.append(f"| `{finding.key}` | {finding.option} | {finding.found} | {links} |")
    return lines


def _plain(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ", ".join(f"{v:g}" for v in value) + "]"
    return str(value)


def _type(annotation: Any) -> str:
    origin = get_origin(annotation)
    args = get_args(annotation)
    if annotation is type(None):
        return "null"
    if origin is None:
        return re.sub(r"^.*\.", "", getattr(annotation, "__name__", str(annotation))).lower()
    if str(origin).endswith("Annotated'>") or "Annotated" in str(origin):
        return _type(args[0])
    if "Literal" in str(origin):
        return " | ".join(str(a) for a in args)
    if origin in (list, tuple):
        return f"list of {_type(args[0])}"
    return " | ".join(_type(a) for a in args)
