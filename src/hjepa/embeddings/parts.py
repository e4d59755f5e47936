"""The folder of finished parts of an embedding that is being written, from which a stopped command continues."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hjepa.errors import UserError
from hjepa.runs.lock import FolderLock
from hjepa.runtime.files import write_atomically

if TYPE_CHECKING:
    import pyarrow as pa

_PLAN = "plan.json"
# What must be the same to continue, and how it is called in messages.
_MUST_AGREE = {
    "model": "another model",
    "encoding": "another --level, --pool or --normalize",
    "images": "other images",
    "preprocess": "another preprocessing",
    "rows_per_part": "parts of another size",
}


@dataclass(frozen=True)
class Parts:
    """Finished parts in ``<output>.parts``, each written atomically.

    Attributes:
        folder: the folder.
    """

    folder: Path

    @classmethod
    def beside(cls, output: Path) -> Parts:
        """The parts of an output file."""
        return cls(output.with_name(f"{output.name}.parts"))

    @contextlib.contextmanager
    def opened(self, plan: dict[str, Any], *, force: bool) -> Iterator[None]:
        """Create the folder, or continue in it if it was begun by the same plan. Other processes are excluded.

        Args:
            plan: what determines the parts, as plain values.
            force: discard parts of another plan.

        Raises:
            UserError: the parts are of another model or of other images, another process is writing them, or the folder
                cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"--output: {self.folder} cannot be created ({error.strerror}); choose another file"
            ) from None
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(FolderLock(self.folder))
            except UserError as error:
                raise UserError(f"{str(error).split(';')[0]}; wait until it ends, or choose another --output") from None
            before = self._plan()
            if before is not None and before != plan:
                if not force:
                    raise self._other(before, plan)
                for file in self.folder.glob("*.parquet"):
                    file.unlink()
            try:
                write_atomically(self.folder / _PLAN, json.dumps(plan, indent=2))
            except OSError as error:
                raise self._unwritable(error) from None
            yield

    def path(self, number: int) -> Path:
        """File of a part."""
        return self.folder / f"part-{number:06d}.parquet"

    def write(self, number: int, rows: pa.Table) -> None:
        """Write a finished part. Raises `UserError` if it cannot be written, for example on a full disk."""
        import pyarrow.parquet as pq

        temporary = self.folder / f".part-{number:06d}"
        try:
            pq.write_table(rows, temporary, compression="zstd", use_dictionary=False)
            temporary.replace(self.path(number))
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise self._unwritable(error) from None

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _plan(self) -> dict[str, Any] | None:
        """The plan that the parts were begun with; None if there is none, and then no part counts."""
        try:
            plan: dict[str, Any] = json.loads((self.folder / _PLAN).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return plan

    def _unwritable(self, error: OSError) -> UserError:
        return UserError(
            f"--output: {self.folder} cannot be written ({reason(error)}); make room and run the same command again, which "
            "continues after the finished parts, or choose another file"
        )

    def _other(self, before: dict[str, Any], plan: dict[str, Any]) -> UserError:
        what = next((name for key, name in _MUST_AGREE.items() if before.get(key) != plan.get(key)), "other settings")
        return UserError(
            f"--output: {self.folder} was begun with {what}; choose another file, or start again with --force"
        )


def reason(error: OSError) -> str:
    """Why a file cannot be written, in the words of the operating system; PyArrow puts them into a longer text."""
    return os.strerror(error.errno) if error.errno else str(error)
