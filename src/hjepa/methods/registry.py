"""Methods by name."""

from __future__ import annotations

import difflib
import importlib
import inspect
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch

from hjepa.errors import UserError
from hjepa.methods.jepa import HJepa, IJepa
from hjepa.methods.method import Method

if TYPE_CHECKING:
    from types import ModuleType

    from hjepa.config import Config

_METHODS: dict[str, type[Method]] = {"hjepa": HJepa, "ijepa": IJepa}

M = TypeVar("M", bound=type[Method])


def register(name: str) -> Callable[[M], M]:
    """Decorator that registers a method for ``method: NAME`` in configurations.

    A name is known only once the module that registers it has been imported, as a Python program does before it calls
    `hjepa.train`. The command line imports no module for a name; give it ``method: package.module:Class``.

    Args:
        name: lower case.

    Raises:
        ValueError: the name is already taken by another class.

    Example:
        >>> from hjepa.methods import HJepa, register
        >>> @register("my_jepa")
        ... class MyJepa(HJepa):
        ...     pass
    """

    def enter(method: M) -> M:
        known = _METHODS.setdefault(name, method)
        if known is not method and known.__qualname__ != method.__qualname__:
            raise ValueError(f"method {name!r} is already {known.__module__}.{known.__qualname__}")
        _METHODS[name] = method
        return method

    return enter


def method_names() -> list[str]:
    """Registered names; the key ``method`` also accepts ``package.module:Class``."""
    return sorted(_METHODS)


def find_method(name: str) -> type[Method]:
    """The method class of a name.

    Args:
        name: a registered name, or ``package.module:Class`` for an importable class. The module is looked for on
            ``PYTHONPATH`` and in the current directory, which stays importable.

    Raises:
        UserError: there is no such method, its module cannot be imported, or the class is incomplete; the message says
            which, in one line.
    """
    if ":" in name:
        return _imported(name)
    if name not in _METHODS:
        close = difflib.get_close_matches(name, _METHODS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"use {', '.join(method_names())}, or package.module:Class"
        raise UserError(f"method: {name!r} is not known; {hint}")
    return _METHODS[name]


def _imported(name: str) -> type[Method]:
    path, _, attribute = name.partition(":")
    if not all([*path.split("."), attribute]):
        raise UserError(f"method: {name!r} is not a module and a class; give package.module:Class")
    module = _module(name, path)
    if not hasattr(module, attribute):
        close = difflib.get_close_matches(attribute, vars(module), n=1)
        hint = f"did you mean {path}:{close[0]}?" if close else "give package.module:Class"
        raise UserError(f"method: {name!r}: module {path} has no {attribute}; {hint}")
    found = getattr(module, attribute)
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise UserError(f"method: {name!r} is not a subclass of hjepa.methods.Method; derive it from that class")
    if inspect.isabstract(found):
        missing = ", ".join(sorted(found.__abstractmethods__))
        raise UserError(f"method: {name!r} does not define {missing}; every method must, see hjepa.methods.Method")
    return found


def _module(name: str, path: str) -> ModuleType:
    """Import the module of a method.

    Raises:
        UserError: it is not found, or raises an error; the message gives the line.
    """
    # The program `hjepa` has the folder of its script first on the path, not the current one as `python -m hjepa` has.
    # The entry stays, so that functions of the module and worker processes can import its neighbours later.
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        return importlib.import_module(path)
    except (Exception, SystemExit) as error:
        # A module that exists but misses another one is an error inside it.
        if isinstance(error, ModuleNotFoundError) and error.name and f"{path}.".startswith(f"{error.name}."):
            raise UserError(
                f"method: {name!r}: there is no module {error.name} on PYTHONPATH or in the current directory {here}; "
                "give package.module:Class"
            ) from None
        raise UserError(f"method: {name!r} cannot be imported: {_cause(error)}") from None


def _cause(error: BaseException) -> str:
    """Type, first line of the message, file and line of an exception."""
    if isinstance(error, SyntaxError):
        message, file, line = error.msg, error.filename, error.lineno
    else:
        message = str(error)
        frames = traceback.extract_tb(error.__traceback__)
        # Frames of the import system itself, which has no source files, say nothing about the cause.
        file, line = next(
            ((f.filename, f.lineno) for f in reversed(frames) if not f.filename.startswith("<")), ("?", 0)
        )
    first = (message.strip().splitlines() or [""])[0]
    return type(error).__name__ + (f": {first}" if first else "") + f" ({file}, line {line})"


def build_method(config: Config, channels: int = 3) -> Method:
    """The untrained method of a configuration; its weights are a function of ``config.seed`` alone.

    Raises:
        UserError: an unknown method.
    """
    method = find_method(config.method)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return method(config, channels)
