"""Fetching Parquet data sets from the Hugging Face hub (extra ``hjepa[hub]``)."""

from __future__ import annotations

from pathlib import Path

from hjepa.errors import DataError


def fetch_parquet(name: str, *, download: bool) -> Path:
    """The local copy of a data set's Parquet files, downloaded where allowed.

    Args:
        name: ``user/name``.
        download: whether the hub may be asked; otherwise only the local cache is.

    Raises:
        DataError: the extra is missing, no such data set, or it cannot be fetched.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise DataError(
            f"data.data_path: {name} does not exist here; to fetch it from the Hugging Face hub run "
            "pip install 'hjepa[hub]'"
        ) from None
    try:
        folder = snapshot_download(
            name, repo_type="dataset", allow_patterns=["*.parquet"], local_files_only=not download
        )
    except Exception as error:
        # The hub client raises errors of its own, of requests and of the file system, in changing classes.
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        todo = "check the name and the network" if download else "set data.download=true"
        raise DataError(
            f"data.data_path: {name} does not exist here and cannot be fetched from the Hugging Face hub ({reason}); "
            f"{todo}, or give a Parquet file or folder"
        ) from None
    return Path(folder)
