"""``training``: optimiser, schedules, precision and length of a run."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hjepa.config.base import Section

Beta = Annotated[float, Field(ge=0, lt=1)]


class TrainingConfig(Section):
    """The training loop."""

    epochs: int | float = Field(default=100, gt=0)
    """Passes over the training images; the schedules stretch over them. May be a fraction."""
    max_steps: int | None = Field(default=None, ge=1)
    """Stop after this many optimiser steps, counted from step 0; schedules still stretch over `epochs`."""
    warmup_epochs: float = Field(default=10.0, ge=0)
    """Epochs over which the learning rate rises linearly from `warmup_lr`."""
    warmup_lr: float = Field(default=0.0, ge=0)
    """Learning rate at step 0."""
    lr: float = Field(default=1e-3, gt=0)
    """Peak learning rate, before `lr_scaling`."""
    min_lr: float = Field(default=1e-6, ge=0)
    """Learning rate at the end."""
    lr_schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Course of the learning rate after warm-up; `constant` falls to `min_lr` over the last `cooldown_epochs`."""
    cooldown_epochs: float = Field(default=0.0, ge=0)
    """For `constant`: epochs of linear decay at the end."""
    lr_scaling: Literal["none", "linear", "sqrt"] = "none"
    """Multiply the learning rates by (global batch / 256), its square root, or nothing."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """`adamw`, fused; norms, biases and mask tokens are not decayed. `muon`: Muon for the matrices inside transformer
    blocks, with updates scaled to AdamW's, and AdamW for the rest."""
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    """Decay rates of AdamW's moments."""
    weight_decay: float = Field(default=0.05, ge=0)
    """Weight decay at the start."""
    weight_decay_end: float | None = Field(default=None, ge=0)
    """Weight decay at the end, reached on a cosine; constant when not given."""
    clip_grad: float | None = Field(default=None, gt=0)
    """Largest norm of the gradient; not clipped when not given."""
    accumulation_steps: int = Field(default=1, ge=1)
    """Forward passes per optimiser step."""
    use_amp: bool | Literal["auto"] = False
    """Mixed precision. `auto`: on CUDA GPUs that have `amp_dtype`, and on processors whose matrix products in it are much
    faster than float32's (AVX512-BF16, AMX); a resumed run and a study keep the choice."""
    amp_dtype: Literal["bf16", "fp16"] = "bf16"
    """Type for mixed precision; `fp16` scales the loss."""
    tf32: bool = True
    """TensorFloat-32 matrix products on GPUs that have them; without effect on a CPU."""
    deterministic: bool = False
    """Use deterministic algorithms only: on a GPU, two runs are then equal bit by bit, at some cost in speed. A CPU is
    deterministic without it; an operation that has no deterministic form is an error."""
    non_finite: Literal["skip", "stop"] = "skip"
    """When loss or gradient are not finite, weights and target stay as they are: `skip` goes on with the next step (and
    stops after ten in a row), `stop` ends the run. Either way a report names step, level and images."""
    resume_schedule: Literal["keep", "stretch"] = "keep"
    """When a run goes on with another `training.epochs` and its learning rate would jump: `keep` refuses in one line,
    `stretch` accepts the jump and says it."""
    compile: bool | Literal["auto"] = False
    """Compile the networks with `torch.compile`. `auto`: on a CUDA GPU yes, elsewhere no (on CPUs a step gained 4 % at best,
    and compiling takes up to two minutes); a resumed run keeps the choice."""
    compile_mode: Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] = "default"
    """How `torch.compile` works, where it does. `reduce-overhead`: CUDA graphs, for GPUs that wait for the host;
    `max-autotune`: those, and kernels chosen by trial, which takes minutes; `max-autotune-no-cudagraphs`: the trials
    alone."""
    num_threads: int | None = Field(default=None, ge=1)
    """CPU threads. When not given: one for each physical core that the process may use (its affinity and a container's
    quota count), divided among the processes on the machine, unless `OMP_NUM_THREADS` says otherwise; a resumed run keeps its number."""
