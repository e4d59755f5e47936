"""The interface between a self-supervised method and the training loop."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
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


RESERVED = frozenset(
    {
        "kind", "step", "epoch", "time", "loss", "lr", "weight_decay", "grad_norm", "skipped", "bad_images",
        "images_per_second", "data_wait", "health", "light", "signs",
    }
)  # fmt: skip
"""Keys of a training record that the loop writes; ``loss`` is the total."""
SYSTEM = "system/"
"""How keys begin that say what a run uses of its machine."""


def check_names(names: Iterable[str]) -> None:
    """Refuse names of a method's scalars under which the loop records something else.

    Raises:
        ValueError: such a name, which would replace the loop's value in the records or be replaced by it.
    """
    taken = sorted(name for name in names if name in RESERVED or name.startswith(SYSTEM))
    if taken:
        raise ValueError(
            f"a method cannot record {', '.join(map(repr, taken))}: the name is reserved, as the training loop records its "
            "own value under it (loss is the total); choose another, for example with a prefix"
        )


class Plan(Protocol):
    """Random choices drawn on the host for one micro-batch, such as masks."""

    def to(self, device: torch.device) -> Self:
        """The same plan on a device."""


@dataclass
class StepOutput:
    """Result of one micro-batch.

    Attributes:
        total: the loss, scalar with gradient.
        terms: detached scalars for records, averaged over the micro-batches of a logging interval: ``loss/level_0``,
            ``variance`` and so on. The names in `RESERVED`, such as ``loss``, are taken.
        checks: by stage, in order of computation (``target``, ``prediction``): whether each of its n parts is finite,
            bool [n]. When an update is skipped, the report names the first stage that is not.

    Raises:
        ValueError: a term has a reserved name.
    """

    total: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)
    checks: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_names(self.terms)


@dataclass(frozen=True, eq=False)
class ParameterGroup:
    """Trained parameters that the optimiser treats alike.

    Attributes:
        parameters: the weights.
        decays: whether weight decay applies.
        hidden: matrices inside the network, which Muon may orthogonalise.
        pieces: number of matrices stacked along the first axis: 3 for fused queries, keys and values.
    """

    parameters: list[nn.Parameter]
    decays: bool
    hidden: bool = False
    pieces: int = 1


class Method(nn.Module, ABC):
    """A self-supervised method: its networks, views, loss, and what it does after an update.

    The training loop uses these members only. The loop itself reads batches, accumulates gradients, checks and makes
    updates, and writes records and checkpoints. `hjepa.methods.register` registers a class by name.

    Args:
        config: the configuration.
        channels: input channels.

    Attributes:
        config: the configuration.
        momentum_gap: factor of the distance between the momentum of a moving average and 1, which a health action may
            lower; methods without a moving average ignore it.
        solo: whether passes run in this process alone and must not use collectives.
    """

    compares_images: bool = False
    """Whether the loss compares the images of a micro-batch with each other, so that its size matters."""

    def __init__(self, config: Config, channels: int) -> None:
        super().__init__()
        self.config = config
        self.channels = channels
        self.solo = False
        self.horizon: Horizon | None = None
        self.momentum_gap = 1.0

    @property
    @abstractmethod
    def encoder(self) -> Encoder:
        """The encoder to evaluate, pack and export; with a moving average, the averaged one."""

    with_targets: bool = False
    """Whether batches include the data set's targets, which self-supervised methods do not need."""

    @classmethod
    def check(cls, config: Config, processes: int) -> None:
        """Check a configuration before data are read and networks built.

        Args:
            config: the configuration.
            processes: number of processes that share a batch.

        Raises:
            UserError: the configuration cannot be trained; the message names the key and a remedy.
        """

    def start(self, horizon: Horizon) -> None:
        """Set the length of the run. Called before the first step, and again if a resumed run changes it."""
        self.horizon = horizon

    def views(self) -> tuple[ViewSpec, ...]:
        """Views that the loader makes of every image; by default the one of ``data.augmentation``."""
        return default_views(self.config.data, self.encoder.geometry.height_width)

    def plan(self, step: int, positions: range) -> Plan | None:
        """Draw random choices on the host; must depend on seed, step and positions only.

        Args:
            step: optimiser step.
            positions: of the micro-batch's images in the global batch.
        """
        del step, positions
        return None

    @abstractmethod
    def forward(self, batch: Batch, plan: Any, step: int) -> StepOutput:
        """The loss of one micro-batch. Runs under autocast; a loss that needs float32 must disable it.

        Args:
            batch: images of this process.
            plan: what `plan` returned, on the device.
            step: optimiser step.
        """

    def after_update(self, step: int, made: Tensor | None = None) -> None:
        """Called after the update of a step, for example to move an average.

        Args:
            step: optimiser step.
            made: whether the update was made, if only the device knows (bool scalar); if not, nothing may change.
        """

    def hyperparameters(self, step: int) -> dict[str, float]:
        """Values of this step to record beside the learning rate, for example ``momentum``."""
        del step
        return {}

    def diagnostics(self) -> dict[str, Tensor]:
        """Scalars computed once per record from the last micro-batch, for example chance levels; not named as a term or
        one of `RESERVED`."""
        return {}

    def fewest_images(self, processes: int) -> int:
        """Minimum number of images per forward pass of one process; more than 1 if loss terms compare images."""
        del processes
        return 1

    def networks(self) -> Sequence[nn.Module]:
        """Networks to compile separately; FSDP makes each of their ``blocks`` a unit."""
        return [self.encoder]

    @property
    def weights(self) -> nn.Module:
        """The module whose state is saved in checkpoints."""
        return self

    def param_groups(self) -> list[ParameterGroup]:
        """All trained parameters. Vectors (norms, biases, mask tokens) do not decay; matrices of transformer blocks are
        hidden."""
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
        """FLOP per image of one training step, with the loss but without the optimiser; None if not implemented.

        What several processes compute is added, also where each of them computes the same.

        Args:
            config: the configuration; no network is built.
            channels: input channels.
            processes: number of processes that share a batch.
        """
        del config, channels, processes
        return None

    def describe(self) -> list[str]:
        """Lines for the log at the start of a run."""
        return []

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Context of passes without collectives."""
        self.solo = True
        try:
            yield
        finally:
            self.solo = False
