"""Load a configuration: preset or YAML file, then ``section.key=value`` overrides; errors are one line each."""

from __future__ import annotations

import difflib
import os
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from hjepa.config.removed import drop_removed
from hjepa.config.root import Config
from hjepa.config.yaml_text import parse_yaml
from hjepa.errors import UserError

S = TypeVar("S", bound=BaseModel)

# Located through the parent: importing the folder as a package would replace the function `presets` with a module.
_PRESETS = resources.files("hjepa.config") / "presets"

# Processes that a preset is meant for; one if not listed.
_PRESET_PROCESSES = {"imagenet1k": 8}


def presets() -> list[str]:
    """Names of the presets that ship with the package."""
    return sorted(entry.name.removesuffix(".yaml") for entry in _PRESETS.iterdir() if entry.name.endswith(".yaml"))


def preset_text(name: str) -> str:
    """The YAML text of a preset."""
    return (_PRESETS / f"{name}.yaml").read_text(encoding="utf-8")


def load_config(
    source: str | Path | Mapping[str, Any] | None = None, overrides: Sequence[str] | Mapping[str, Any] = ()
) -> Config:
    """Read and check a configuration.

    Args:
        source: path of a YAML file, name of a preset, a mapping, or nothing for the defaults.
        overrides: ``["section.key=value", ...]`` with YAML values, or a mapping from dotted keys to values.

    Raises:
        UserError: one line per error, with the key, the value and what is allowed.
    """
    tree, origin = _read(source)
    if isinstance(overrides, Mapping):
        pairs = list(overrides.items())
    else:
        pairs = [parse_override(text) for text in overrides]
    for key, value in pairs:
        _require_text(key, value)
        _set(tree, key, value)
    place = _Place(origin, [key for key, _ in pairs])
    drop_removed(tree, place)
    typos = [f"{path}: {hint}{place(path)}" for path, hint in _missing_spaces(tree, "")]
    if typos:
        raise UserError("\n".join(typos))
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        raise UserError("\n".join(_mistakes(error.errors(), place))) from None
    return config.check()


def check_section(section: type[S], name: str, values: Mapping[str, Any]) -> S:
    """Check the values of one section that were given in Python.

    Args:
        section: its class.
        name: its name, for messages.
        values: its keys.

    Raises:
        UserError: one line per error, as of `load_config`.
    """
    try:
        return section.model_validate(dict(values))
    except ValidationError as error:
        details = error.errors()
        for detail in details:
            detail["loc"] = (name, *detail["loc"])
        raise UserError("\n".join(_mistakes(details, _Place("", ())))) from None


class _Place:
    """Where a value comes from, for the end of a message: `` (in preset quickstart)``, or nothing for an override.

    Args:
        origin: the file or preset; empty if there is none.
        overrides: dotted keys that were set after reading it.
    """

    def __init__(self, origin: str, overrides: Sequence[str]) -> None:
        self._origin = origin
        self._overrides = overrides

    def __call__(self, path: str) -> str:
        """The text for a key, or for a section whose keys do not fit together."""
        given = any(
            not path or f"{key}.".startswith(f"{path}.") or path.startswith(f"{key}.") for key in self._overrides
        )
        return "" if given or not self._origin else f" (in {self._origin})"


def batch_advice(source: object, config: Config) -> str | None:
    """Advice for a preset's learning rate used at another global batch than it was chosen for.

    Args:
        source: what the configuration was read from.
        config: the configuration with overrides.

    Returns:
        one line, or None if the source is not a preset, the batch is unchanged, or the user has set the learning rate
        or its scaling.
    """
    if not isinstance(source, str) or source not in presets():
        return None
    preset = load_config(source)
    before = _global_batch(preset, _PRESET_PROCESSES.get(source, 1))
    now = _global_batch(config, int(os.environ.get("WORLD_SIZE", "1")))
    chosen = config.training.lr != preset.training.lr or config.training.lr_scaling != preset.training.lr_scaling
    if before == now or chosen or config.training.lr_scaling != "none":
        return None
    ratio, lr = now / before, preset.training.lr
    return (
        f"preset {source}: training.lr={lr:g} was chosen for {before} images per update, this run has {now}; consider "
        f"training.lr={lr * ratio**0.5:.3g} (square-root scaling, as used between presets)"
    )


def _global_batch(config: Config, processes: int) -> int:
    return config.data.batch_size * config.training.accumulation_steps * processes


def parse_override(text: str) -> tuple[str, Any]:
    """Split ``section.key=value``; the value is read as YAML.

    Raises:
        UserError: no ``=``, no key, or a value that is not YAML.
    """
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not key:
        raise UserError(f"{text!r}: not an override; write section.key=value, for example training.epochs=10")
    _require_text(key, value)
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError:
        raise UserError(f"{key}: {value!r} is not valid YAML; quote it if it is text") from None


def _require_text(key: str, value: Any) -> None:
    """Reject file names that are not valid Unicode: the YAML and JSON files of a run cannot store them."""
    try:
        str(value).encode()
    except UnicodeEncodeError:
        raise UserError(
            f"{key}: {str(value)!r} is not valid UTF-8; rename the file, or link to it under another name"
        ) from None


def _missing_spaces(node: Any, path: str) -> Iterator[tuple[str, str]]:
    """Key and remedy of every ``key:value`` without a space, which YAML reads as a key (or string) that contains a colon."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            name, colon, rest = str(key).partition(":")
            if colon and value is None and rest:
                yield f"{path}{key}", f"missing space after the colon; write `{name}: {rest}`"
            else:
                yield from _missing_spaces(value, f"{path}{key}.")
    elif isinstance(node, list):
        for number, entry in enumerate(node):
            yield from _missing_spaces(entry, f"{path}{number}.")


def dump_config(config: Config) -> str:
    """The configuration as YAML that `load_config` reads back to an equal one."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def flat_values(config: Config | Mapping[str, Any]) -> dict[str, Any]:
    """Dotted key -> value of a configuration, given as such or as a tree."""
    return _flatten(config.model_dump(mode="json") if isinstance(config, Config) else config, "")


def _flatten(tree: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _read(source: str | Path | Mapping[str, Any] | None) -> tuple[dict[str, Any], str]:
    if source is None:
        return {}, ""
    if isinstance(source, Mapping):
        return _copy(source), ""
    if isinstance(source, str) and source in presets():
        return _parse(preset_text(source), f"preset {source}"), f"preset {source}"
    path = Path(source)
    if not path.is_file():
        known = presets()
        close = difflib.get_close_matches(str(source), known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"give a YAML file or one of the presets {', '.join(known)}"
        raise UserError(f"{source}: no such configuration file or preset; {hint}")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as text ({error}); give a YAML file") from None
    return _parse(text, str(path)), str(path)


def _parse(text: str, origin: str) -> dict[str, Any]:
    tree = parse_yaml(text, origin)
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UserError(f"{origin}: expected sections, got {type(tree).__name__}; start with a line like `model:`")
    return _copy(tree)


def _copy(tree: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(k): _copy(v) if isinstance(v, Mapping) else v for k, v in tree.items()}


def _set(tree: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    node = tree
    for depth, name in enumerate(parents):
        child = node.setdefault(name, {})
        if child is None:
            child = node[name] = {}
        if not isinstance(child, dict):
            raise UserError(f"{dotted}: {'.'.join(parents[: depth + 1])} is a value, not a section")
        node = child
    node[last] = value


def _mistakes(details: Sequence[ErrorDetails], place: _Place) -> list[str]:
    """One line per error. For a key with a union type pydantic reports the errors of every branch; these are merged."""
    by_key: dict[tuple[int | str, ...], list[ErrorDetails]] = {}
    for detail in details:
        by_key.setdefault(_union(detail) or _keys(detail), []).append(detail)
    lines = []
    for same in by_key.values():
        kinds = list(dict.fromkeys(_kind(detail) for detail in same))
        # Of a list that lacks several entries, the last error has the full length.
        lists = [kind for kind in kinds if kind is not None and kind.startswith("a list of")]
        kinds = [kind for kind in kinds if kind not in lists[:-1]]
        if len(same) > 1 and None not in kinds:
            # The branch for lists may complain about a missing entry; the key's own value is in the other errors.
            whole = min(same, key=lambda detail: len(detail["loc"]))
            whole["msg"] = f"Input should be {' or '.join(str(kind) for kind in kinds)}"
            lines.append(_explain(whole, place))
        else:
            lines += [_explain(detail, place) for detail in same]
    return lines


def _keys(detail: ErrorDetails) -> tuple[int | str, ...]:
    """The key of an error; pydantic's location also names the branch of a union type."""
    return tuple(part for part in detail["loc"] if _is_key(part))


def _union(detail: ErrorDetails) -> tuple[int | str, ...] | None:
    """The key with the union type that an error is about; None if there is none, or an entry inside is at fault."""
    branch = next((place for place, part in enumerate(detail["loc"]) if not _is_key(part)), None)
    return None if branch is None or _kind(detail) is None else tuple(detail["loc"][:branch])


def _kind(detail: ErrorDetails) -> str | None:
    """What a value should be, in a few words; None if an error is not about that."""
    if detail["type"] == "too_long" and detail.get("ctx", {}).get("field_type") == "Tuple":
        return f"a list of {detail['ctx']['max_length']} numbers"
    if detail["type"] == "missing" and isinstance(detail["loc"][-1], int):
        return f"a list of {detail['loc'][-1] + 1} numbers"
    *before, last = detail["loc"]
    if isinstance(last, int) and before and not _is_key(before[-1]):
        return "a list of numbers"
    message = detail["msg"]
    return message.split("should be ", 1)[1].split(",")[0] if "should be " in message else None


def _explain(detail: ErrorDetails, place: _Place) -> str:
    keys = [str(part) for part in _keys(detail)]
    where = place(".".join(keys))
    if detail["type"] == "missing" and isinstance(detail["loc"][-1], int):
        keys.pop()
    if detail["type"] in ("missing", "too_long") and _kind(detail) is not None:
        detail["msg"] = f"Input should be {_kind(detail)}" if "should be" not in detail["msg"] else detail["msg"]
    path = ".".join(keys)
    if detail["type"] == "extra_forbidden":
        return f"{path}: unknown key{_nearest(keys)}{where}"
    if detail["type"] in ("model_type", "model_attributes_type", "dict_type"):
        typo = re.match(r"(\w+):(\S+)", detail["input"]) if isinstance(detail["input"], str) else None
        hint = f"; missing space after the colon, write `{typo[1]}: {typo[2]}`" if typo else ""
        return f"{path}: expected a section with keys, got {detail['input']!r}{hint}{where}"
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "value_error" and ": " in message and message.split(": ")[0].isidentifier():
        return f"{path}{'.' if path else ''}{message}{where}"
    message = constraint(message)
    if detail["input"] is None and detail["type"] != "value_error":
        return f"{path}: no value given: {message}; give one, or leave the key out{where}"
    close = ""
    if detail["type"] == "literal_error":
        choices = [c.strip(" '") for c in detail.get("ctx", {}).get("expected", "").replace(" or ", ",").split(",")]
        near = difflib.get_close_matches(str(detail["input"]), choices, n=1)
        close = f"; did you mean {near[0]}?" if near else ""
    return f"{path}: invalid value {detail['input']!r}: {message}{close}{where}"


def constraint(message: str) -> str:
    """A message of pydantic as the end of a line: "Input should be below 1" becomes "must be below 1"."""
    message = message.removeprefix("Input ").replace("should", "must", 1)
    return message[0].lower() + message[1:]


def _is_key(part: int | str) -> bool:
    return isinstance(part, int) or (part.isidentifier() and part not in ("int", "float", "str", "bool"))


# Keys that do not exist and resemble unrelated ones.
_ELSEWHERE = {"patch_size": "the patch size is part of model.encoder_type, for example vit_tiny_patch16_224"}


def _nearest(keys: list[str]) -> str:
    if keys[-1] in _ELSEWHERE:
        return f"; {_ELSEWHERE[keys[-1]]}"
    known = {dotted: dotted.rsplit(".", 1)[-1] for dotted in all_keys()}
    siblings = [k for k in known if k.rpartition(".")[0] == ".".join(keys[:-1])]
    sections = {k.split(".")[0] for k in known}
    names = {known[k]: k for k in siblings} | ({s: s for s in sections} if len(keys) == 1 else {})
    close = difflib.get_close_matches(keys[-1], names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {names[close[0]]}?"
    elsewhere = difflib.get_close_matches(keys[-1], known.values(), n=1, cutoff=0.8)
    if elsewhere:
        return f"; did you mean {next(k for k, v in known.items() if v == elsewhere[0])}?"
    return f"; valid keys: {', '.join(sorted(names))}" if names else ""


def all_keys(model: type[BaseModel] = Config, prefix: str = "") -> list[str]:
    """Every leaf key of the tree as a dotted path, in order."""
    keys: list[str] = []
    for name, field in model.model_fields.items():
        section = _section(field.annotation)
        if section is not None:
            keys += all_keys(section, f"{prefix}{name}.")
        else:
            keys.append(f"{prefix}{name}")
    return keys


def _section(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        for part in typing.get_args(annotation):
            found = _section(part)
            if found is not None:
                return found
    return None
