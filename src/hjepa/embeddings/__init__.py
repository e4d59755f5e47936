"""Embeddings of any images: write them to a file, find similar images, near copies and outliers."""

from hjepa.embeddings.duplicates import duplicates
from hjepa.embeddings.embed import embed
from hjepa.embeddings.similar import similar
from hjepa.embeddings.store import Embeddings, open_embeddings

__all__ = ["Embeddings", "duplicates", "embed", "open_embeddings", "similar"]
