"""Look at runs from their files: analyse one, compare several, watch one that is running."""

from hjepa.analysis.analyze import analyze
from hjepa.analysis.compare import compare
from hjepa.analysis.watch import watch

__all__ = ["analyze", "compare", "watch"]
