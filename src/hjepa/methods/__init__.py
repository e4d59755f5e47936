"""Self-supervised methods: the interface of the training loop, and its implementations."""

from hjepa.methods.jepa import HJepa, IJepa
from hjepa.methods.method import Method, ParameterGroup, Plan, StepOutput
from hjepa.methods.registry import build_method, find_method, method_names, register
from hjepa.methods.schedule import Horizon

__all__ = [
    "HJepa",
    "Horizon",
    "IJepa",
    "Method",
    "ParameterGroup",
    "Plan",
    "StepOutput",
    "build_method",
    "find_method",
    "method_names",
    "register",
]
