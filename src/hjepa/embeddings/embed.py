"""Write the embeddings of any images to a file, part by part, so that a stopped command can continue."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hjepa.data.images.preprocess import Preprocess
from hjepa.embeddings.encoding import NAME, Encoding, choose_encoding, embedding_reader, encoder_digest
from hjepa.embeddings.images import Images, find_images
from hjepa.embeddings.parts import Parts, reason
from hjepa.embeddings.store import SUFFIXES, About, join, side_files, table
from hjepa.errors import DataError, DivergenceError, UserError
from hjepa.evaluation.features import Reader, View, encode
from hjepa.runtime.outputs import check_outputs
from hjepa.runtime.work_progress import WorkProgress
from hjepa.zoo import load_encoder

if TYPE_CHECKING:
    from hjepa.runs.load import TrainedRun

log = logging.getLogger("hjepa")

ROWS_PER_PART = 2048
"""Images per part: what is lost when the command is stopped, and what is in memory."""


@dataclass(frozen=True)
class _Job:
    """Images of one part: rows ``start`` to ``stop`` of one split."""

    number: int
    split: int
    start: int
    stop: int


def embed(
    source: str | Path,
    data: str | Path,
    output: str | Path,
    *,
    level: int | str = "all",
    pool: str = "mean",
    normalize: bool = False,
    device: str = "auto",
    batch_size: int | None = None,
    force: bool = False,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    rows_per_part: int = ROWS_PER_PART,
    console: bool = False,
) -> dict[str, Any]:
    """Write one vector for every image of a data set.

    Parts of `ROWS_PER_PART` images are written to ``<output>.parts`` as they are done, and joined at the end. If the
    command is stopped, the same call continues after the last part; it refuses to continue with another model, other
    images or other settings. Images that cannot be read are left out, with a warning.

    Args:
        source: run folder, checkpoint, packed folder or name of a shipped model.
        data: name of a data set, folder of images, Parquet, tar shards; see `hjepa.embeddings.images.find_images`.
        output: ``.parquet``, with the columns ``path``, ``label`` (if any image has one) and ``embedding``; or ``.npy``,
            float32 [N, D], with paths and labels in a ``.csv`` of the same name and the description in a ``.json``.
        level: a level, ``last`` (the coarsest), or ``all``: the levels concatenated, finest first.
        pool: how the cells of a level become one vector: ``mean``, as in an evaluation, or ``max``.
        normalize: divide each level's vector by its length.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:<n>`` or ``mps``.
        batch_size: images per forward pass; at least 64 by default.
        force: replace the output, and parts of another model or of other images.
        overrides: ``["data.key=value", ...]`` or a mapping, for keys that find and read images.
        rows_per_part: images per part.
        console: draw a progress bar where standard output is a terminal.

    Returns:
        the description that is also in the file, with ``output``, ``count`` and ``left_out``.

    Raises:
        UserError: no such model, images or level, an output that exists or cannot be written, parts of other images, or
            features that are not finite.
    """
    path = Path(output)
    check_outputs([path, *side_files(path)], SUFFIXES, force=force)
    run = load_encoder(source, device=device)
    encoding = choose_encoding(run.encoder, level, pool, normalize)
    images = find_images(run.config, run.channels, data, batch_size=batch_size, overrides=overrides)
    about = describe(run, source, encoding, images)
    try:
        found = write_embeddings(run, images, about, path, force=force, rows_per_part=rows_per_part, console=console)
    except KeyboardInterrupt:
        log.warning(
            "stopped; finished parts are in %s, and the same command continues after them", Parts.beside(path).folder
        )
        raise
    log.info("wrote %s", path)
    return found


def write_embeddings(
    run: TrainedRun,
    images: Images,
    about: About,
    path: Path,
    *,
    force: bool = False,
    rows_per_part: int = ROWS_PER_PART,
    console: bool = False,
) -> dict[str, Any]:
    """Encode images and write the file; see `embed`."""
    encoding = about.encoding
    parts = Parts.beside(path)
    plan = {**about.as_dict(), "encoding": encoding.as_dict(), "rows_per_part": rows_per_part}
    jobs = list(_jobs(images, rows_per_part))
    known_bad = images.bad_files
    with parts.opened(plan, force=force):
        rows = _work(run, images, encoding, parts, jobs, console)
        left_out = known_bad + len(images) - rows
        if not rows:
            raise DataError(f"{images.config.data.data_path}: none of {len(images)} images can be read")
        about = About(encoding, about.model, about.preprocess, about.images | {"left_out": left_out})
        try:
            join(path, [parts.path(job.number) for job in jobs], about, images.labelled, rows)
        except OSError as error:
            raise UserError(
                f"--output: {path} cannot be written ({reason(error)}); make room and run the same command again: "
                f"the parts in {parts.folder} are kept"
            ) from None
    parts.remove()
    return {"output": str(path), "count": rows, "left_out": left_out, **about.as_dict()}


def describe(run: TrainedRun, source: str | Path, encoding: Encoding, images: Images) -> About:
    """The description of the embeddings of some images."""
    geometry = run.encoder.geometry
    return About(
        encoding,
        {"name": str(source), "digest": encoder_digest(run.encoder), "step": run.step},
        Preprocess(geometry.height_width, tuple(run.mean), tuple(run.std)).as_dict(),
        {**images.where, "count": len(images), "digest": images.digest()},
    )


def view_of(run: TrainedRun, images: Images) -> View:
    """How the images are prepared for the encoder: as in an evaluation."""
    data = images.config.data
    return View(
        image_size=run.encoder.geometry.height_width,
        mean=run.mean,
        std=run.std,
        device=run.device,
        batch_size=data.batch_size,
        num_workers=data.num_workers,
        pin_memory=data.pin_memory,
    )


def _jobs(images: Images, rows_per_part: int) -> Iterator[_Job]:
    number = 0
    for split, dataset in enumerate(images.parts):
        for start in range(0, len(dataset), rows_per_part):
            yield _Job(number, split, start, min(start + rows_per_part, len(dataset)))
            number += 1


def _work(run: TrainedRun, images: Images, encoding: Encoding, parts: Parts, jobs: list[_Job], console: bool) -> int:
    """Write the parts that are missing; returns the number of images in all parts."""
    reader, view = embedding_reader(run.encoder, encoding), view_of(run, images)
    missing = [job for job in jobs if not parts.path(job.number).is_file()]
    before = len(images) - sum(job.stop - job.start for job in missing)
    if before:
        log.info("continuing: %d of %d images are done", before, len(images))
    started = time.monotonic()
    with WorkProgress("embedded", len(images), "images", console=console) as progress:
        progress.advance(before)
        for job in missing:
            _write_part(parts, job, images, reader, encoding.dimensions, view, progress)
    new = sum(job.stop - job.start for job in missing)
    if new:
        log.info("%d images in %.1f s", new, time.monotonic() - started)
    return sum(_rows(parts.path(job.number)) for job in jobs)


def _write_part(
    parts: Parts, job: _Job, images: Images, reader: Reader, dimensions: int, view: View, progress: WorkProgress
) -> None:
    dataset = images.parts[job.split]
    found, rows = encode(dataset, torch.arange(job.start, job.stop), [reader], view, progress, empty=True)
    features = found.get(NAME, torch.zeros(0, dimensions))
    if not bool(torch.isfinite(features).all()):
        bad = int((~torch.isfinite(features).all(dim=1)).nonzero()[0])
        raise DivergenceError(
            f"{images.path(job.split, int(rows[bad]))}: its features are NaN or infinite; the model has diverged, use an "
            "earlier checkpoint"
        )
    numbers = rows.tolist()
    labels = [images.label(job.split, row) for row in numbers] if images.labelled else None
    parts.write(job.number, table([images.path(job.split, row) for row in numbers], labels, features))


def _rows(part: Path) -> int:
    import pyarrow.parquet as pq

    count: int = pq.read_metadata(part).num_rows
    return count
