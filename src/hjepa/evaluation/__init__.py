"""Evaluation of trained models against controls: raw pixels, PCA and the untrained encoder."""

from hjepa.evaluation.cka_between import cka_between
from hjepa.evaluation.evaluate import evaluate
from hjepa.evaluation.features import View, encode, extract
from hjepa.evaluation.table import format_table, print_blocks, print_table
from hjepa.evaluation.transfer import evaluate_each, print_transfer

__all__ = [
    "View",
    "cka_between",
    "encode",
    "evaluate",
    "evaluate_each",
    "extract",
    "format_table",
    "print_blocks",
    "print_table",
    "print_transfer",
]
