"""The protocols of `hjepa evaluate`. Each is a file of its own; to add one, list it in `PROTOCOLS`."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from hjepa.errors import UserError
from hjepa.evaluation.protocols.attentive import ATTENTIVE
from hjepa.evaluation.protocols.detection import DETECTION
from hjepa.evaluation.protocols.few_shot import FEW_SHOT
from hjepa.evaluation.protocols.fine_tune import FINE_TUNE
from hjepa.evaluation.protocols.knn import KNN
from hjepa.evaluation.protocols.linear_probe import LINEAR_PROBE
from hjepa.evaluation.protocols.protocol import Block, Protocol
from hjepa.evaluation.protocols.quality import QUALITY
from hjepa.evaluation.protocols.robustness import ROBUSTNESS
from hjepa.evaluation.protocols.segmentation import SEGMENTATION

PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        LINEAR_PROBE,
        KNN,
        ATTENTIVE,
        FEW_SHOT,
        FINE_TUNE,
        QUALITY,
        ROBUSTNESS,
        SEGMENTATION,
        DETECTION,
    )
}
"""By name, in the order in which they run and are printed."""
DEFAULT_TYPES = ("linear_probe", "knn")
"""What is evaluated unless something else is requested: the table of every run."""

__all__ = ["DEFAULT_TYPES", "PROTOCOLS", "Block", "Protocol", "parse_eval_types"]


def parse_eval_types(eval_type: str | Sequence[str]) -> tuple[str, ...]:
    """Parse names of `PROTOCOLS`, separated by commas or in a sequence; ``-`` is accepted for ``_``.

    ``"all"`` stands for every protocol that needs nothing but labelled images.

    Raises:
        UserError: an unknown name.
    """
    given = [eval_type] if isinstance(eval_type, str) else list(eval_type)
    names = [name.strip().replace("-", "_") for text in given for name in text.split(",") if name.strip()]
    choices = ", ".join(PROTOCOLS)
    for name in names:
        if name not in (*PROTOCOLS, "all"):
            close = difflib.get_close_matches(name, (*PROTOCOLS, "all"), n=1)
            hint = f"did you mean {close[0]}?" if close else f"use {choices} or all"
            raise UserError(f"eval_type: unknown value {name!r}; {hint}")
    if not names:
        raise UserError(f"eval_type: nothing given; use {choices} or all")
    return tuple(name for name, protocol in PROTOCOLS.items() if name in names or ("all" in names and protocol.in_all))
