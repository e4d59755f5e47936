"""``training``: optimiser, schedules, precision and length of a run."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hjepa.config.base import Section

Beta = Annotated[float, Field(ge=0, lt=1)]


class EarlyStoppingConfig(Section):
    """When to end a run before its last epoch. The learning rate has not decayed then, which the log says."""

    monitor: list[Literal["knn", "health"]] = Field(default_factory=list)
    """What ends the run: `knn`: online k-NN has not reached a new best; `health`: the light was red. Nothing when empty."""
    patience: int = Field(default=3, ge=1)
    """Online evaluations in a row after which the run ends."""
    min_delta: float = Field(default=0.0, ge=0, lt=1)
    """Rise of the k-NN accuracy (0 to 1) that counts as a new best. With a thousand images, a difference of 0.02 may be
    noise."""
    start_epoch: float = Field(default=0.0, ge=0)
    """Evaluations before this epoch are not counted."""


class TrainingConfig(Section):
    """The training loop."""

    epochs: int | float = Field(default=100, gt=0)
    """Passes over the training images, and the length of the schedules; need not be whole."""
    max_steps: int | None = Field(default=None, ge=1)
    """Stop after this many optimiser steps, counted from step 0; schedules still span `epochs`."""
    warmup_epochs: float = Field(default=10.0, ge=0)
    """Epochs over which the learning rate rises linearly from `warmup_lr`."""
    warmup_lr: float = Field(default=0.0, ge=0)
    """Learning rate at step 0."""
    lr: float = Field(default=1e-3, gt=0)
    """Peak learning rate, before `lr_scaling`."""
    min_lr: float = Field(default=1e-6, ge=0)
    """Learning rate at the end."""
    lr_schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Learning-rate schedule after warm-up; `constant` decays to `min_lr` over the last `cooldown_epochs`."""
    cooldown_epochs: float = Field(default=0.0, ge=0)
    """For `constant`: epochs of linear decay at the end."""
    lr_scaling: Literal["none", "linear", "sqrt"] = "none"
    """`linear`: multiply the learning rates by global batch / 256; `sqrt`: by its square root."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """`adamw`: fused AdamW without weight decay on norms, biases and mask tokens. `muon`: Muon for the matrices inside
    transformer blocks, with updates scaled to match AdamW's, and AdamW for the rest."""
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    """Decay rates of AdamW's moments."""
    weight_decay: float = Field(default=0.05, ge=0)
    """Weight decay at the start."""
    weight_decay_end: float | None = Field(default=None, ge=0)
    """Weight decay at the end, reached on a cosine; constant when not given."""
    clip_grad: float | None = Field(default=None, gt=0)
    """Maximum norm of the gradient; no clipping when not given."""
    accumulation_steps: int = Field(default=1, ge=1)
    """Forward passes per optimiser step."""
    use_amp: bool | Literal["auto"] = False
    """Mixed precision. `auto`: on CUDA GPUs that support `amp_dtype`, and on CPUs whose matrix products are much faster in
    it than in float32 (AVX512-BF16, AMX); a resumed run or a study keeps the choice."""
    amp_dtype: Literal["bf16", "fp16"] = "bf16"
    """Type for mixed precision; `fp16` uses loss scaling."""
    tf32: bool = True
    """TensorFloat-32 matrix products on GPUs that support them; no effect on a CPU."""
    deterministic: bool = False
    """Use deterministic algorithms only: two runs on a GPU are then bit-identical, at some cost in speed, and an operation
    without a deterministic version is an error. Runs on a CPU are deterministic without it."""
    non_finite: Literal["skip", "stop"] = "skip"
    """What to do when the loss or gradient is not finite. `skip`: continue with the next step, and stop after ten in a
    row. `stop`: end the run. Either way weights and target are left unchanged, and a report names step, level and
    images."""
    resume_schedule: Literal["keep", "stretch"] = "keep"
    """When a run is resumed with another `training.epochs` and its learning rate, weight decay or momentum would jump:
    `keep` refuses, `stretch` accepts the jump and logs it."""
    compile: bool | Literal["auto"] = False
    """Compile the networks with `torch.compile`. `auto`: on CUDA GPUs only (on CPUs a step became 4 % faster at best, and
    compiling takes up to two minutes); a resumed run keeps the choice."""
    compile_mode: Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] = "default"
    """Mode of `torch.compile`. `reduce-overhead`: CUDA graphs, for GPUs that wait for the CPU. `max-autotune`: CUDA graphs
    and autotuned kernels, which takes minutes. `max-autotune-no-cudagraphs`: autotuned kernels only."""
    num_threads: int | None = Field(default=None, ge=1)
    """CPU threads. When not given: `OMP_NUM_THREADS` if set, otherwise one for each physical core that the process may use
    (affinity and container quota are respected), divided among the processes on the machine; a resumed run keeps its
    number."""
    early_stopping: EarlyStoppingConfig = Field(default_factory=EarlyStoppingConfig)
    """When to end a run before its last epoch."""
