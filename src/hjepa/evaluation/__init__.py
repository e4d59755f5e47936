"""Evaluation of trained models against honest controls. Reads a model, its configuration and images."""

from hjepa.evaluation.evaluate import evaluate
from hjepa.evaluation.features import View, encode, extract
from hjepa.evaluation.table import format_table, print_table

__all__ = ["View", "encode", "evaluate", "extract", "format_table", "print_table"]
