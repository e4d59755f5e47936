"""Studies over many runs: grids of configurations, paired seeds, equal budgets, and their statistics."""

from hjepa.research.ablate import StudyOutcome, run_study
from hjepa.research.score import validation_score
from hjepa.research.study import Study, load_study, study_names

__all__ = ["Study", "StudyOutcome", "load_study", "run_study", "study_names", "validation_score"]
