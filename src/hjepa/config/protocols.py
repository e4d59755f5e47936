"""``evaluation.<protocol>``: settings of the evaluation protocols that train something or read other images."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from hjepa.config.base import Section


class FineTuneConfig(Section):
    """`--eval-type fine_tune`: the whole encoder, or its last blocks, trained with labels."""

    images: int | None = Field(default=4000, ge=10)
    """Maximum number of labelled training images, balanced over the classes; null for all."""
    test_images: int | None = Field(default=2000, ge=1)
    """Maximum number of images to score; null for all that `evaluation.test_images` allows."""
    epochs: int = Field(default=2, ge=1)
    """Passes over these images."""
    batch_size: int = Field(default=32, ge=2)
    """Images per step."""
    lr: float = Field(default=2e-3, gt=0)
    """Learning rate of the head and, before `layer_decay`, of the last block."""
    layer_decay: float = Field(default=0.75, gt=0, le=1)
    """Factor of the learning rate from one block to the one before it; 1 for the same rate everywhere."""
    blocks: int = Field(default=2, ge=0)
    """Last encoder blocks that are trained in the row `last blocks`; 0 leaves this row out."""
    weight_decay: float = Field(default=0.05, ge=0)
    """Decay of weight matrices."""
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    """Share of the label that is spread evenly over all classes."""


class SupervisedConfig(Section):
    """`--control supervised`: the same architecture trained from scratch with labels."""

    share: float = Field(default=1.0, gt=0)
    """Images that it sees in training, as a share of those that the run saw."""
    lr: float = Field(default=1e-3, gt=0)
    """Largest learning rate."""


class RobustnessConfig(Section):
    """`--eval-type robustness`: accuracy on corrupted images."""

    images: int | None = Field(default=250, ge=1)
    """Maximum number of images that are corrupted, in every way and severity; null for all."""


class SegmentationConfig(Section):
    """`--eval-type segmentation`: a class per pixel from frozen patch features."""

    dataset: Literal["shape_scenes", "ade20k", "voc", "masks"] = "shape_scenes"
    """Images with a map of classes: `shape_scenes` (generated), `ade20k`, `voc`, or `masks` (your own)."""
    data_path: Path | None = None
    """Where they are; not used for `shape_scenes`."""
    train_images: int = Field(default=1500, ge=10)
    """Maximum number of images to fit the heads on."""
    test_images: int = Field(default=500, ge=1)
    """Maximum number of images to score."""
    epochs: int = Field(default=8, ge=1)
    """Passes over the training images."""
    lr: float = Field(default=5e-3, gt=0)
    """Largest learning rate of the heads."""


class DetectionConfig(Section):
    """`--eval-type detection`: boxes of objects from patch features (needs the extra `hjepa[detection]`)."""

    dataset: Literal["shape_scenes", "coco"] = "shape_scenes"
    """Images with boxes: `shape_scenes` (generated) or `coco`."""
    data_path: Path | None = None
    """Where they are; not used for `shape_scenes`."""
    train_images: int = Field(default=800, ge=10)
    """Maximum number of images to train on."""
    test_images: int = Field(default=250, ge=1)
    """Maximum number of images to score."""
    epochs: int = Field(default=8, ge=1)
    """Passes over the training images."""
    lr: float = Field(default=1e-3, gt=0)
    """Largest learning rate of the detector."""
    encoder: Literal["frozen", "fine_tuned"] = "frozen"
    """Whether the encoder is trained with the detector, at a tenth of the learning rate."""


SECTIONS: dict[str, type[Section]] = {
    "fine_tune": FineTuneConfig,
    "supervised": SupervisedConfig,
    "robustness": RobustnessConfig,
    "segmentation": SegmentationConfig,
    "detection": DetectionConfig,
}
"""By name under ``evaluation``. Any of their keys may be changed in an evaluation."""
