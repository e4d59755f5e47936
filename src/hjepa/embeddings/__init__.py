"""Embeddings of any images: write them to a file, find similar images, near copies and outliers."""

from hjepa.embeddings.embed import embed
from hjepa.embeddings.store import Embeddings, open_embeddings

__all__ = ["Embeddings", "embed", "open_embeddings"]
