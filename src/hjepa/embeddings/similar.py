"""The images of a set that are most similar to given pictures."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hjepa.data.dataset import EncodedPixels, ImageDataset
from hjepa.data.images.decode import UnreadableImageError
from hjepa.data.sources.folder import FileBlobs
from hjepa.embeddings.encoding import NAME, directions, embedding_reader
from hjepa.embeddings.pictures import Tile, picture_rows, short, thumbnail
from hjepa.embeddings.search import nearest
from hjepa.embeddings.searched import Searched, searched
from hjepa.errors import DataError, UserError
from hjepa.evaluation.features import View, encode
from hjepa.runtime.outputs import check_outputs, write_bytes, write_csv, write_json
from hjepa.zoo import load_encoder

if TYPE_CHECKING:
    from torch import Tensor

    from hjepa.runs.load import TrainedRun

log = logging.getLogger("hjepa")

OUTPUTS = (".json", ".csv", ".png")
_SHOWN = 12


def similar(
    source: str | Path,
    pictures: Sequence[str | Path],
    data: str | Path,
    *,
    k: int = 10,
    level: int | str | None = None,
    output: Sequence[str | Path] = (),
    device: str = "auto",
    batch_size: int | None = None,
    force: bool = False,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    console: bool = False,
) -> dict[str, Any]:
    """Find the k images most similar to each picture, by cosine similarity of their embeddings.

    Every level counts the same; so does the k-NN of an evaluation.

    Args:
        source: run folder, checkpoint, packed folder or name of a shipped model.
        pictures: image files.
        data: a file of ``hjepa embed`` made with the same model, or images as for `hjepa.embeddings.embed`.
        k: number of neighbours.
        level: a level, ``last`` or ``all``; by default all, or that of the file.
        output: files to write: ``.json`` (the result), ``.csv`` (a table), ``.png`` (the pictures).
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:<n>`` or ``mps``.
        batch_size: images per forward pass; at least 64 by default.
        force: overwrite outputs.
        overrides: ``["data.key=value", ...]`` or a mapping, for keys that find and read images.
        console: draw progress bars where standard output is a terminal.

    Returns:
        ``queries``: for each picture its ``path`` and ``neighbours`` (``rank``, ``path``, ``label``, ``similarity``);
        and ``protocol``.

    Raises:
        UserError: a picture or the images cannot be read, an output exists, or the file is of another model.
    """
    outputs = [Path(path) for path in output]
    for path in outputs:
        check_outputs([path], OUTPUTS, force=force)
    if not pictures:
        raise UserError("PICTURE: none given; give one or more image files")
    if k < 1:
        raise UserError(f"-k: {k} neighbours; use 1 or more")
    _check_files(pictures)
    run = load_encoder(source, device=device)
    with searched(run, source, data, level=level, batch_size=batch_size, overrides=overrides, console=console) as found:
        queries = _queries(run, pictures, found)
        similarities, rows = nearest(queries, found.embeddings, k, run.device)
        result = _result(source, pictures, found, similarities, rows)
        for path in outputs:
            if path.suffix == ".json":
                write_json(path, result)
            elif path.suffix == ".csv":
                _write_table(path, result)
            else:
                write_bytes(path, _draw(pictures, found, similarities, rows))
    return result


def _check_files(pictures: Sequence[str | Path]) -> None:
    for picture in pictures:
        if not Path(picture).is_file():
            what = "is a folder; give image files" if Path(picture).is_dir() else "no such file; give image files"
            raise DataError(f"{picture}: {what}")
        try:
            _read(picture)
        except UnreadableImageError as error:
            raise DataError(f"{picture}: {error}; give files that can be read as images") from None


def _queries(run: TrainedRun, pictures: Sequence[str | Path], found: Searched) -> Tensor:
    """The pictures as `directions`, [Q, D]; prepared like images that are read from files."""
    names = [str(picture) for picture in pictures]
    dataset = ImageDataset(
        EncodedPixels(FileBlobs(Path(), names), run.channels),
        name="pictures",
        split="test",
        channels=run.channels,
        identifiers=names,
        bad_images="stop",
    )
    view = View(run.encoder.geometry.height_width, run.mean, run.std, run.device)
    try:
        features, _ = encode(dataset, None, [embedding_reader(run.encoder, found.encoding)], view)
    except DataError as error:
        text = str(error).removeprefix("data.bad_images=stop: ").split(";")[0]
        raise DataError(f"PICTURE: {text}; give files that can be read as images") from None
    return directions(features[NAME], found.encoding)


def _result(
    source: str | Path, pictures: Sequence[str | Path], found: Searched, similarities: Tensor, rows: Tensor
) -> dict[str, Any]:
    embeddings = found.embeddings
    queries = []
    for picture, values, numbers in zip(pictures, similarities.tolist(), rows.tolist(), strict=True):
        near = [
            {
                "rank": rank,
                "path": embeddings.paths[row],
                "label": embeddings.label(row),
                "similarity": min(1.0, value),
            }
            for rank, (value, row) in enumerate(zip(values, numbers, strict=True), start=1)
        ]
        queries.append({"path": str(picture), "neighbours": near})
    return {
        "queries": queries,
        "images": len(embeddings),
        "protocol": {
            "model": str(source),
            "similarity": "cosine, mean over levels",
            **found.encoding.as_dict(),
            "searched": embeddings.about.images,
        },
    }


def _write_table(path: Path, result: dict[str, Any]) -> None:
    rows = [
        (query["path"], near["rank"], near["path"], near["label"] or "", f"{near['similarity']:.6f}")
        for query in result["queries"]
        for near in query["neighbours"]
    ]
    write_csv(path, ("picture", "rank", "path", "label", "similarity"), rows)


def _draw(pictures: Sequence[str | Path], found: Searched, similarities: Tensor, rows: Tensor) -> bytes:
    if found.images is None:
        raise DataError(f"--output: the pictures cannot be drawn, because {found.missing}; give the images instead")
    if len(pictures) > _SHOWN:
        log.info("drawing the first %d of %d pictures", _SHOWN, len(pictures))
    lines = []
    for picture, values, numbers in list(zip(pictures, similarities.tolist(), rows.tolist(), strict=True))[:_SHOWN]:
        line = [Tile(thumbnail(_read(picture)), short(str(picture)), strong=True)]
        for value, row in zip(values, numbers, strict=True):
            label = found.embeddings.label(row)
            text = f"{value:.3f}  {label if label is not None else short(found.embeddings.paths[row])}"
            line.append(Tile(thumbnail(found.images.read(found.number(row))), text))
        lines.append(line)
    return picture_rows(lines, [(0, "picture"), (1, "most similar")], first_apart=True)


def _read(picture: str | Path) -> Tensor:
    return EncodedPixels(FileBlobs(Path(), [str(picture)])).read(0)
