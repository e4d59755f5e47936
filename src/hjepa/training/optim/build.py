"""Build the optimiser: AdamW with weight decay on matrices only, or Muon for hidden matrices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hjepa.errors import CheckpointError
from hjepa.runtime.dtensor import spread_like
from hjepa.training.optim.muon import Muon

if TYPE_CHECKING:
    from pathlib import Path

    from hjepa.config import TrainingConfig
    from hjepa.methods import Method


class OptimizerPair:
    """Several optimisers over disjoint parameters of a model, used as one.

    ``param_groups`` lists the groups of all members, so that schedules and gradient scalers work as with a single
    optimiser.

    Args:
        members: optimisers, each with its own parameters.
    """

    def __init__(self, members: Sequence[torch.optim.Optimizer]) -> None:
        self.members = tuple(members)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Groups of all members."""
        return [group for member in self.members for group in member.param_groups]

    def step(self) -> None:
        """One update of each member."""
        for member in self.members:
            member.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear all gradients."""
        for member in self.members:
            member.zero_grad(set_to_none=set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """States of the members, in order."""
        return {"members": [member.state_dict() for member in self.members]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the states of the members.

        Raises:
            ValueError: the state is of another kind of optimiser.
        """
        states = state.get("members", ())
        if len(states) != len(self.members):
            raise ValueError(f"state of {len(states)} optimisers, expected {len(self.members)}")
        for member, own in zip(self.members, states, strict=True):
            member.load_state_dict(own)


def build_optimizer(method: Method, config: TrainingConfig) -> torch.optim.Optimizer | OptimizerPair:
    """The optimiser of a configuration.

    `adamw`: fused, one kernel over all parameters. `muon`: Muon (Jordan et al., 2024) for hidden matrices, AdamW for
    everything else; updates are scaled to the size of AdamW's (Liu et al., arXiv:2502.16982), so that one learning rate
    suits both.

    Args:
        method: defines which parameters are trained, which decay and which are hidden matrices.
        config: the ``training`` section.
    """
    groups = method.param_groups()
    place = {id(p): number for number, p in enumerate(method.weights.parameters())}
    hidden = [group for group in groups if group.hidden and config.optimizer == "muon"]

    def rest(decays: bool) -> list[nn.Parameter]:
        found = [p for group in groups if group not in hidden and group.decays == decays for p in group.parameters]
        # In the order of the weights: optimiser state is stored by parameter number.
        return sorted(found, key=lambda p: place.get(id(p), len(place)))

    adamw = torch.optim.AdamW(
        [
            {"params": rest(True), "weight_decay": config.weight_decay, "decays": True},
            {"params": rest(False), "weight_decay": 0.0, "decays": False},
        ],
        lr=config.lr,
        betas=config.betas,
        fused=True,
    )
    if not hidden:
        return adamw
    muon = Muon(
        [{"params": group.parameters, "pieces": group.pieces, "decays": group.decays} for group in hidden],
        lr=config.lr,
        weight_decay=config.weight_decay,
        bf16=config.use_amp is True and config.amp_dtype == "bf16",
    )
    return OptimizerPair([muon, adamw])


def load_optimizer(optimizer: torch.optim.Optimizer | OptimizerPair, state: dict[str, Any], path: Path) -> None:
    """Restore an optimiser's state.

    Raises:
        CheckpointError: the state belongs to another optimiser.
    """
    if not isinstance(optimizer, OptimizerPair):
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        moments = {
            index: {n: spread_like(v, parameters[index]) if v.ndim else v for n, v in own.items()}
            for index, own in state.get("state", {}).items()
            if index < len(parameters)
        }
        state = state | {"state": moments} if "state" in state else state
    try:
        optimizer.load_state_dict(state)
    except (KeyError, ValueError) as error:
        raise CheckpointError(
            f"{path}: optimiser state does not match training.optimizer ({error}); resume with the training.optimizer "
            "that the run was started with"
        ) from None


def set_found_inf(optimizer: torch.optim.Optimizer | OptimizerPair, found_inf: Tensor) -> None:
    """Make the optimiser skip its next update where ``found_inf``, a scalar on the device, is 1."""
    for member in optimizer.members if isinstance(optimizer, OptimizerPair) else (optimizer,):
        # The attributes that GradScaler sets: a fused optimiser skips its update if `found_inf` is 1.
        member.found_inf = found_inf  # type: ignore[attr-defined]
        member.grad_scale = None  # type: ignore[attr-defined]


def set_hyperparameters(optimizer: torch.optim.Optimizer | OptimizerPair, lr: float, weight_decay: float) -> None:
    """Write the scheduled values of this step into the optimiser."""
    for group in optimizer.param_groups:
        group["lr"] = lr
        if group["decays"]:
            group["weight_decay"] = weight_decay
