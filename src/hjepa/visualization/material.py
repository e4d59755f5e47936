"""What figures are made of, each part computed when the first figure needs it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from hjepa.data import Split, Splits
from hjepa.errors import UserError
from hjepa.methods import HJepa
from hjepa.metrics import position_share
from hjepa.runs.load import untrained_encoder
from hjepa.runs.records import Records, read_records
from hjepa.visualization.decoder import train_decoder
from hjepa.visualization.features import Gallery, TokenFeatures, encode_cells, encode_gallery, encode_tokens
from hjepa.visualization.figures.decoder import Decoding, decoded_share, predicted_share
from hjepa.visualization.figures.embedding import Layout, layouts
from hjepa.visualization.own_pictures import OwnPictures
from hjepa.visualization.predictions import COUNTED, Bank, Predicted, encode_bank, predict
from hjepa.visualization.shown import Shown
from hjepa.visualization.split_images import ImageSource, SplitImages
from hjepa.zoo.files import is_packed

if TYPE_CHECKING:
    from torch import Tensor

    from hjepa.config import Config
    from hjepa.masking import MaskSampler
    from hjepa.models import Encoder
    from hjepa.runs.load import TrainedRun

log = logging.getLogger("hjepa")

# Pictures that one figure shows at most.
_SHOWN = 8
_DECODER_IMAGES = 1024
# Held-out images on which decoders are measured.
_DECODED = 128


class Material:
    """Images, features and records of a run.

    Args:
        run: the run.
        home: folder of its records.
        config: its configuration, with the images at their present place.
        paths: the user's own pictures; empty for images of the run's data set.
        console: show progress on standard output.
    """

    def __init__(
        self, run: TrainedRun, home: Path, config: Config, *, paths: Sequence[str | Path] = (), console: bool = False
    ) -> None:
        self.run = run
        self.home = home
        self.config = config
        self.geometry = run.encoder.geometry
        self._console = console
        self.own = OwnPictures(run, paths) if paths else None

    @property
    def sampler(self) -> MaskSampler | None:
        """The run's masks; None if its method predicts no masked regions."""
        return self.run.method.masks if isinstance(self.run.method, HJepa) else None

    @property
    def predicts(self) -> bool:
        """Whether there is a trained predictor; packed models have none."""
        return isinstance(self.run.method, HJepa) and not is_packed(self.run.checkpoint)

    @cached_property
    def records(self) -> Records:
        """Training records."""
        records = read_records(self.home / "metrics.jsonl")
        if records.unreadable:
            log.warning("%s: skipped %d line(s) that cannot be read", self.home / "metrics.jsonl", records.unreadable)
        return records

    @cached_property
    def splits(self) -> Splits:
        """The run's data set."""
        return Splits(self.config.data.model_copy(update={"channels": self.run.channels}), self.run.config.seed)

    @cached_property
    def images(self) -> ImageSource:
        """Held-out (test) images."""
        found = SplitImages(self.run, self.splits)
        log.info("figures: encoding held-out images of %s", found.dataset.description)
        return found

    @cached_property
    def untrained(self) -> Encoder:
        """The encoder at step 0."""
        return untrained_encoder(self.run)

    @cached_property
    def shown(self) -> Shown:
        """The first pictures: the user's own, or held-out images."""
        if self.own is not None:
            return Shown.first(self.own, _SHOWN)
        return Shown.first(self.images, self._held_back)

    @property
    def _held_back(self) -> int:
        """How many held-out images are shown, so that predictions are compared with others; at most half of a small set."""
        return min(_SHOWN, max(1, len(self.images.order) // 2))

    @cached_property
    def tokens(self) -> TokenFeatures:
        """Cell features of held-out images; the user's own pictures, if any, come first."""
        theirs = encode_tokens(self.images, self.run.encoder, self.untrained)
        if self.own is None:
            return theirs
        ours = encode_tokens(self.own, self.run.encoder, self.untrained, _SHOWN)
        return TokenFeatures(
            torch.cat([ours.images, theirs.images]),
            [torch.cat(pair) for pair in zip(ours.trained, theirs.trained, strict=True)],
            [torch.cat(pair) for pair in zip(ours.untrained, theirs.untrained, strict=True)],
        )

    @cached_property
    def gallery(self) -> Gallery:
        """Pooled features of held-out images."""
        return encode_gallery(self.images, self.run.encoder, self.untrained, console=self._console)

    @cached_property
    def own_gallery(self) -> tuple[ImageSource, Gallery] | None:
        """The user's own pictures, if any, with their pooled features."""
        return None if self.own is None else (self.own, encode_gallery(self.own, self.run.encoder, self.untrained))

    @cached_property
    def layouts(self) -> list[Layout]:
        """Gallery images in the plane; none with fewer than three of them."""
        return layouts(self.gallery, self.run.config.seed) if len(self.gallery) >= 3 else []

    @cached_property
    def position(self) -> list[float | None]:
        """Share of the variance of cell features that position explains, per level. It enters advice for the next run, so
        it is not measured on test images."""
        split: Split = "train" if self.splits.validation is None else "validation"
        choosing = SplitImages(self.run, self.splits, split)
        return [position_share(level) for level in encode_cells(choosing, self.run.encoder)]

    @cached_property
    def bank(self) -> Bank | None:
        """Target features of images that are not shown; None if there are none."""
        return encode_bank(self.images, self.run.model, 0 if self.own is not None else self._held_back)

    @cached_property
    def predicted(self) -> Predicted:
        """Predictions for the shown pictures."""
        return self._predict(self.shown)

    @cached_property
    def counted(self) -> Predicted:
        """Predictions for more held-out images."""
        return self._predict(Shown.first(self.images, COUNTED))

    @cached_property
    def predicted_shares(self) -> list[float]:
        """Share of the pixel variance of hidden cells of held-out images that decoded predictions explain, per level."""
        shown = Shown.first(self.images, COUNTED)
        predicted = self.scaled(self.counted)
        return [
            predicted_share(decoder, predicted, shown.normalised, self.decoding.mean, level)
            for level, decoder in enumerate(self.decoding.decoders)
        ]

    def _predict(self, shown: Shown) -> Predicted:
        assert self.sampler is not None
        centred = self.run.model.center_targets and self.bank is not None
        return predict(
            shown.normalised, self.run.model, self.sampler, self.bank.means if centred and self.bank else None
        )

    @cached_property
    def decoding(self) -> Decoding:
        """Decoders of all levels, trained on training images.

        Raises:
            DataError: no training image can be read.
        """
        images = SplitImages(self.run, self.splits, "train")
        model = self.run.model
        training = encode_bank(images, model, 0, _DECODER_IMAGES)
        if training is None:
            raise images.unreadable()
        log.info("figures: training decoders on %d training images", len(training))
        seed = self.run.config.seed
        decoders = [
            train_decoder(cells, training.images, self.geometry, level, seed)
            for level, cells in enumerate(training.cells)
        ]
        mean = training.images.mean(dim=0)
        held_out = encode_bank(self.images, model, 0, _DECODED)
        if held_out is None:
            raise self.images.unreadable()
        shares = [
            decoded_share(decoder, cells, held_out.images, mean)
            for decoder, cells in zip(decoders, held_out.cells, strict=True)
        ]
        return Decoding(decoders, len(training), mean, shares)

    def scaled(self, predicted: Predicted) -> Predicted:
        """Predictions with a length for the decoder, if the loss compares directions only and leaves the length free: per
        level the one that brings unit predictions closest to the targets of held-out images (least squares). Shorter than
        targets, since a prediction that is not certain is an average."""
        loss = self.run.config.loss
        if not (loss.normalize_embeddings or loss.type in ("cosine", "infonce")):
            return predicted
        levels = [
            F.normalize(prediction, dim=-1) * best_length(self.counted.predictions[level], self.counted.truths(level))
            for level, prediction in enumerate(predicted.predictions)
        ]
        return Predicted(predicted.context, predicted.index, levels, predicted.targets)


def best_length(predictions: Tensor, targets: Tensor) -> float:
    """The length of predictions [..., D] of which only the direction is known, that is closest to targets [..., D]."""
    return max(0.0, float((F.normalize(predictions, dim=-1) * targets).sum(dim=-1).mean()))


def require_umap() -> None:
    """Check for the package of UMAP maps.

    Raises:
        UserError: it is not installed.
    """
    try:
        import umap  # noqa: F401
    except ImportError:
        raise UserError(
            "--figures: umap needs the package umap-learn; `pip install 'hjepa[umap]'` or leave umap out"
        ) from None
