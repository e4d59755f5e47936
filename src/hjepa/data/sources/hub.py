"""Download Parquet data sets from the Hugging Face hub (extra ``hjepa[hub]``)."""

from __future__ import annotations

from pathlib import Path

from hjepa.errors import DataError


def fetch_parquet(name: str, *, download: bool) -> Path:
    """The local folder of a data set's Parquet files, downloaded if missing and ``download`` is true.

    Args:
        name: ``user/name``.
        download: whether to access the hub; otherwise only the local cache is used.

    Raises:
        DataError: the extra is not installed, or the data set does not exist or cannot be downloaded.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise DataError(
            f"data.data_path: {name} does not exist; to download it from the Hugging Face hub, run "
            "pip install 'hjepa[hub]'"
        ) from None
    try:
        folder = snapshot_download(
            name, repo_type="dataset", allow_patterns=["*.parquet"], local_files_only=not download
        )
    except Exception as error:
        # The hub client raises its own errors, those of its HTTP library and of the file system, varying by version.
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        todo = "check the name and the network" if download else "set data.download=true"
        raise DataError(
            f"data.data_path: {name} does not exist and cannot be downloaded from the Hugging Face hub ({reason}); "
            f"{todo}, or give a Parquet file or folder"
        ) from None
    return Path(folder)
