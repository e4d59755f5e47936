"""Methods by name."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import torch

from hjepa.errors import UserError
from hjepa.methods.jepa import HJepa, IJepa
from hjepa.methods.method import Method

if TYPE_CHECKING:
    from hjepa.config import Config

_METHODS: dict[str, type[Method]] = {"hjepa": HJepa, "ijepa": IJepa}

M = TypeVar("M", bound=type[Method])


def register(name: str) -> Callable[[M], M]:
    """Decorator that registers a method for ``method: NAME`` in configurations.

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
        name: a registered name, or ``package.module:Class`` for an importable class.

    Raises:
        UserError: there is no such method; the message suggests a similar name.
    """
    if ":" in name:
        return _imported(name)
    if name not in _METHODS:
        close = difflib.get_close_matches(name, _METHODS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"use {', '.join(method_names())}, or package.module:Class"
        raise UserError(f"method: {name!r} is not known; {hint}")
    return _METHODS[name]


def _imported(name: str) -> type[Method]:
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"method: cannot import {name!r} ({error}); give package.module:Class") from None
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise UserError(f"method: {name!r} is not a subclass of hjepa.methods.Method; derive it from that class")
    return found


def build_method(config: Config, channels: int = 3) -> Method:
    """The untrained method of a configuration; its weights are a function of ``config.seed`` alone.

    Raises:
        UserError: an unknown method.
    """
    method = find_method(config.method)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return method(config, channels)
