"""Argument forms that Click does not accept: `--a_b` for `--a-b`, options with several values or with an optional one."""

from __future__ import annotations

from collections.abc import Sequence

# Options that take several values, separated by spaces or commas, or repeated.
MANY = ("--k-values", "--hierarchy-levels", "--eval-type", "--depths", "--control", "--seeds", "--figures")
# Options that take several paths, separated by spaces or repeated; a path may contain commas.
PATHS = ("--images",)
# Options whose value may be left out, and what it is then.
OPTIONAL = {"--profile": "10"}


def normalise(arguments: Sequence[str]) -> list[str]:
    """Rewrite arguments into the form that Click reads.

    ``--output_dir x`` becomes ``--output-dir x``; ``--k-values 1 5 10`` becomes ``--k-values 1,5,10``; ``--images a b``
    becomes ``--images a --images b``; ``--profile`` without a number becomes ``--profile 10``.
    """
    result: list[str] = []
    many: str | None = None
    for argument in arguments:
        if result and result[-1] in OPTIONAL and not _is_number(argument):
            result.append(OPTIONAL[result[-1]])
        if argument.startswith("--"):
            name, equals, value = argument.partition("=")
            name = name.replace("_", "-")
            result.append(name + equals + value)
            many = name if name in MANY + PATHS and not equals else None
        elif many is not None and result[-1] != many and "=" not in argument:
            if many in PATHS:
                result += [many, argument]
            else:
                result[-1] += "," + argument
        else:
            result.append(argument)
    if result and result[-1] in OPTIONAL:
        result.append(OPTIONAL[result[-1]])
    return result


def _is_number(text: str) -> bool:
    return text.removeprefix("-").isdigit()


def split(values: Sequence[str] | None) -> list[str]:
    """Flatten values that were repeated or separated by commas."""
    return [part for value in values or () for part in value.replace(",", " ").split()]
