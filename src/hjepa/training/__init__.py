"""The training loop and what surrounds it: schedules, checkpoints, logs, online evaluation."""

from hjepa.runs.load import TrainedRun, load_run, untrained_encoder
from hjepa.training.run import Outcome, run_training

__all__ = ["Outcome", "TrainedRun", "load_run", "run_training", "untrained_encoder"]
