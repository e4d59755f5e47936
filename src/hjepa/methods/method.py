"""What a self-supervised method is to the training loop."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, Self

import torch
from torch import Tensor, nn

from hjepa.data import ViewSpec, default_views
from hjepa.models import Block, Encoder

if TYPE_CHECKING:
    from hjepa.config import Config
    from hjepa.data import Batch
    from hjepa.methods.schedule import Horizon
    from hjepa.models.cost import StepCost


class Plan(Protocol):
    """What was drawn on the host for one micro-batch: masks, for example."""

    def to(self, device: torch.device) -> Self:
        """The same on a device."""


@dataclass
class StepOutput:
    """What one micro-batch yields.

    Attributes:
        total: the loss, scalar with gradient.
        terms: detached scalars that a record shows, averaged over the micro-batches of an interval: ``loss/level_0``,
            ``variance`` and so on.
        checks: bool [n] per stage of the computation, in its order (``target``, ``prediction``): whether each of its n
            parts is finite. The first that is not is named when an update is thrown away.
    """

    total: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)
    checks: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class ParameterGroup:
    """Trained parameters that the optimiser treats alike.

    Attributes:
        parameters: the weights.
        decays: whether weight decay applies.
        hidden: matrices inside the network, which Muon may orthogonalise.
        pieces: equal parts along the first axis that are matrices of their own: 3 for fused queries, keys and values.
    """

    parameters: list[nn.Parameter]
    decays: bool
    hidden: bool = False
    pieces: int = 1


class Method(nn.Module, ABC):
    """A self-supervised method: networks, what it asks of the data, its loss, and what follows an update.

    The training loop knows methods by these members alone: it reads batches, accumulates gradients, guards and makes the
    update, writes records and checkpoints. `hjepa.methods.register` makes a class known by name.

    Args:
        config: the configuration.
        channels: input channels.

    Attributes:
        config: the configuration.
        solo: set while a process tries a pass by itself: nothing is then exchanged with others.
    """

    compares_images: bool = False
    """Whether the loss compares all images of a micro-batch with each other, so that its size matters."""

    def __init__(self, config: Config, channels: int) -> None:
        super().__init__()
        self.config = config
        self.channels = channels
        self.solo = False
        self.horizon: Horizon | None = None

    @property
    @abstractmethod
    def encoder(self) -> Encoder:
        """What is evaluated, packed and exported; for methods with a moving average, the average."""

    with_targets: bool = False
    """Whether batches carry the data set's targets; a self-supervised method leaves them unread."""

    @classmethod
    def check(cls, config: Config, processes: int) -> None:
        """Check a configuration before data are read and weights made.

        Args:
            config: the configuration.
            processes: that share a batch.

        Raises:
            UserError: it cannot be trained so; the line names the key and what would do.
        """

    def start(self, horizon: Horizon) -> None:
        """Learn how long the run is. Called once before the first step, and again when a resumed run changes it."""
        self.horizon = horizon

    def views(self) -> tuple[ViewSpec, ...]:
        """What the loader cuts from every image; the one view of ``data.augmentation`` unless a method wants others."""
        return default_views(self.config.data, self.encoder.geometry.height_width)

    def plan(self, step: int, positions: range) -> Plan | None:
        """Draw on the host what the step needs; a function of seed, step and positions alone.

        Args:
            step: optimiser step.
            positions: of the micro-batch's images in the global batch.
        """
        del step, positions
        return None

    @abstractmethod
    def forward(self, batch: Batch, plan: Any, step: int) -> StepOutput:
        """The loss of one micro-batch. Runs under autocast; a loss that needs float32 switches that off inside.

        Args:
            batch: images of this process.
            plan: what `plan` returned, on the device.
            step: optimiser step.
        """

    def after_update(self, step: int, made: Tensor | None = None) -> None:
        """What follows the update of a step: a moving average, for example.

        Args:
            step: optimiser step.
            made: whether the update was made, where only the device knows (bool scalar); nothing may change if not.
        """

    def hyperparameters(self, step: int) -> dict[str, float]:
        """Values of this step that records show beside the learning rate: ``momentum``, for example."""
        del step
        return {}

    def diagnostics(self) -> dict[str, Tensor]:
        """Scalars computed once per record from the last micro-batch: chance levels, for example."""
        return {}

    def fewest_images(self, processes: int) -> int:
        """Images that a forward pass of one process needs, so that terms that compare images have enough of them."""
        del processes
        return 1

    def networks(self) -> Sequence[nn.Module]:
        """Networks that are compiled one by one; under FSDP each of their ``blocks`` is a unit of its own."""
        return [self.encoder]

    @property
    def weights(self) -> nn.Module:
        """The module whose state a checkpoint holds."""
        return self

    def param_groups(self) -> list[ParameterGroup]:
        """All trained parameters. Vectors (norms, biases, mask tokens) do not decay; matrices of transformer blocks count
        as hidden."""
        trained = [p for p in self.weights.parameters() if p.requires_grad]
        in_blocks = {
            id(parameter): 3 if name.startswith("attn.qkv.") else 1
            for block in self.modules()
            if isinstance(block, Block)
            for name, parameter in block.named_parameters()
            if parameter.ndim == 2
        }
        hidden = {pieces: [p for p in trained if in_blocks.get(id(p)) == pieces] for pieces in (3, 1)}
        rest = [p for p in trained if id(p) not in in_blocks]
        groups = [
            ParameterGroup(hidden[3], decays=True, hidden=True, pieces=3),
            ParameterGroup(hidden[1], decays=True, hidden=True),
            ParameterGroup([p for p in rest if p.ndim > 1], decays=True),
            ParameterGroup([p for p in rest if p.ndim <= 1], decays=False),
        ]
        return [group for group in groups if group.parameters]

    @classmethod
    def cost(cls, config: Config, channels: int, *, processes: int = 1) -> StepCost | None:
        """FLOP per image of one training step, the loss included and the optimiser not; none where they are not counted.

        Args:
            config: the configuration; no weights are made.
            channels: input channels.
            processes: that share a batch.
        """
        del config, channels, processes
        return None

    def describe(self) -> list[str]:
        """Lines for the log at the start of a run."""
        return []

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Context of passes that exchange nothing with other processes."""
        self.solo = True
        try:
            yield
        finally:
            self.solo = False
