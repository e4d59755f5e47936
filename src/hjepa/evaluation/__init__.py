"""Evaluation of trained models against controls: raw pixels, PCA and the untrained encoder."""

from hjepa.evaluation.evaluate import evaluate
from hjepa.evaluation.features import View, encode, extract
from hjepa.evaluation.table import format_table, print_blocks, print_table

__all__ = ["View", "encode", "evaluate", "extract", "format_table", "print_blocks", "print_table"]
