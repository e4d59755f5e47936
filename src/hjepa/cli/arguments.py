"""Argument forms that Click does not accept: `--a_b` for `--a-b`, and options with several values."""

from __future__ import annotations

from collections.abc import Sequence

# Options that take several values, separated by spaces or commas, or repeated.
MANY = ("--k-values", "--hierarchy-levels", "--eval-type", "--depths", "--seeds", "--figures")
# Options that take several paths, separated by spaces or repeated; a path may contain commas.
PATHS = ("--images",)


def normalise(arguments: Sequence[str]) -> list[str]:
    """Rewrite arguments into the form that Click reads.

    ``--output_dir x`` becomes ``--output-dir x``; ``--k-values 1 5 10`` becomes ``--k-values 1,5,10``, and
    ``--images a b`` becomes ``--images a --images b``.
    """
    result: list[str] = []
    many: str | None = None
    for argument in arguments:
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
    return result


def split(values: Sequence[str] | None) -> list[str]:
    """Flatten values that were repeated or separated by commas."""
    return [part for value in values or () for part in value.replace(",", " ").split()]
