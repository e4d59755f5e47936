"""The training loop and what surrounds it: schedules, checkpoints, logs, online evaluation."""

from hjepa.training.run import Outcome, run_training
from hjepa.training.trained_run import TrainedRun, load_run, untrained_model

__all__ = ["Outcome", "TrainedRun", "load_run", "run_training", "untrained_model"]
