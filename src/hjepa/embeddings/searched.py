"""What is searched: images that are encoded now, or a file of embeddings that was written before."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hjepa.embeddings.embed import describe, write_embeddings
from hjepa.embeddings.encoding import Encoding, choose_encoding, encoder_digest
from hjepa.embeddings.images import Images, find_images
from hjepa.embeddings.store import Embeddings, is_embeddings, open_embeddings
from hjepa.errors import UserError

if TYPE_CHECKING:
    from hjepa.runs.load import TrainedRun


@dataclass(frozen=True)
class Searched:
    """Embeddings, and the images that they are of.

    Attributes:
        embeddings: one row for each readable image.
        images: None if they are no longer where they were, or have changed.
        missing: why there are no images; None if there are.
        rows: number of each path among all images.
    """

    embeddings: Embeddings
    images: Images | None
    missing: str | None
    rows: dict[str, int]

    @property
    def encoding(self) -> Encoding:
        """What the embeddings are."""
        return self.embeddings.about.encoding

    def number(self, row: int) -> int:
        """Number among all images of a row of the embeddings."""
        return self.rows[self.embeddings.paths[row]]


@contextlib.contextmanager
def searched(
    run: TrainedRun,
    source: str | Path,
    data: str | Path,
    *,
    level: int | str | None,
    batch_size: int | None,
    overrides: Sequence[str] | Mapping[str, Any],
    console: bool,
) -> Iterator[Searched]:
    """Open a file of ``hjepa embed``, or encode images into a temporary file.

    Args:
        run: the model.
        source: how the user named it.
        data: the file, or images as for `hjepa.embeddings.images.find_images`.
        level: a level; None for that of the file, or all levels.
        batch_size: images per forward pass.
        overrides: keys that find and read images.
        console: draw progress bars where standard output is a terminal.

    Raises:
        UserError: the file is of another model or another level, or the images cannot be read.
    """
    path = Path(data)
    if is_embeddings(path):
        with open_embeddings(path) as found:
            _check(run, found, path, level)
            images, missing = _images_of(run, found, batch_size, overrides)
            yield Searched(found, images, missing, {} if images is None else _rows(images))
        return
    encoding = choose_encoding(run.encoder, "all" if level is None else level, "mean", False)
    images = find_images(run.config, run.channels, data, batch_size=batch_size, overrides=overrides)
    about = describe(run, source, encoding, images)
    with tempfile.TemporaryDirectory(prefix="hjepa-") as folder:
        file = Path(folder) / "embeddings.npy"
        write_embeddings(run, images, about, file, console=console)
        with open_embeddings(file) as found:
            yield Searched(found, images, None, _rows(images))


def _check(run: TrainedRun, found: Embeddings, path: Path, level: int | str | None) -> None:
    about = found.about
    if about.model["digest"] != encoder_digest(run.encoder):
        raise UserError(
            f"{path}: embeddings of another model ({about.model['name']}, step {about.model['step']}); give that model, or images"
        )
    if (
        level is not None
        and choose_encoding(run.encoder, level, about.encoding.pool, about.encoding.normalize) != about.encoding
    ):
        raise UserError(f"--level: {path} has level {about.encoding.level}; leave the option out, or give images")


def _images_of(
    run: TrainedRun, found: Embeddings, batch_size: int | None, overrides: Sequence[str] | Mapping[str, Any]
) -> tuple[Images | None, str | None]:
    """The images that a file of embeddings was made of, or why there are none."""
    where = found.about.images
    keys = {
        f"data.{name}": where[name] for name in ("dataset", "exclude", "labels_file", "classes_file") if name in where
    }
    # Nothing is decoded in advance: only a few images are looked at.
    keys["data.storage"] = "workers"
    try:
        given = where["dataset"] if where["data_path"] is None else where["data_path"]
        extra = dict(overrides) if isinstance(overrides, Mapping) else {}
        images = find_images(run.config, run.channels, given, batch_size=batch_size, overrides=keys | extra)
    except UserError as error:
        return None, str(error).splitlines()[0]
    if len(images) != where["count"] or images.digest() != where["digest"]:
        return None, f"the images at {given} have changed since"
    return images, None


def _rows(images: Images) -> dict[str, int]:
    numbered = ((part, row) for part, dataset in enumerate(images.parts) for row in range(len(dataset)))
    return {images.path(part, row): number for number, (part, row) in enumerate(numbered)}
