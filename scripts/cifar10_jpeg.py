"""Write CIFAR-10 as JPEG images (quality 75, 4:2:0) in Parquet files, as used for the results under docs/results.

The original images (170 MB) are downloaded if they are not in the first folder:

    python scripts/cifar10_jpeg.py data/original data/cifar10
    hjepa train --config cifar10_cpu data.dataset=parquet data.data_path=data/cifar10

The published runs used a copy with the images in another order. The same seed therefore draws other batches from this
one, and results differ as much as between seeds.
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from torch import Tensor

from hjepa.config import DataConfig
from hjepa.data import ImageDataset, build_dataset

QUALITY = 75
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def jpeg(pixels: Tensor) -> bytes:
    """Encode an image [3, h, w], uint8."""
    file = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=QUALITY, subsampling="4:2:0")
    return file.getvalue()


def write(dataset: ImageDataset, file: Path) -> None:
    assert dataset.labels is not None
    assert dataset.class_names is not None
    rows = [{"bytes": jpeg(dataset.read(index)), "path": None} for index in range(len(dataset))]
    features = {
        "img": {"_type": "Image"},
        "label": {"_type": "ClassLabel", "names": list(dataset.class_names)},
    }
    table = pa.table({"img": pa.array(rows, IMAGE), "label": dataset.labels.numpy()})
    about = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(about), file)


def main(original: Path, output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        dataset = build_dataset(DataConfig(dataset="cifar10", data_path=str(original)), split)
        write(dataset, output / f"{split}.parquet")
        print(f"{output / f'{split}.parquet'}: {len(dataset)} images")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python scripts/cifar10_jpeg.py ORIGINAL_FOLDER OUTPUT")
    main(Path(sys.argv[1]), Path(sys.argv[2]))
