"""Look at runs from their files: analyse one, compare several, watch one that is running."""

from hjepa.analysis.analyze import analyze

__all__ = ["analyze"]
