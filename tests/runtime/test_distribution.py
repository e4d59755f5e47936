"""Communication between processes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed, multiprocessing

from hjepa.runtime.distribution import divide_work

PROCESSES = 3


def work_in_a_process(rank: int, rendezvous: str, folder: str) -> None:
    distributed.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=PROCESSES)
    found = []
    for rows in (2, 3, 7, 8):
        seen: list[int] = []

        def work(part: Tensor, seen: list[int] = seen) -> Tensor:
            seen.append(len(part))
            return part * part

        done = divide_work(work, torch.arange(rows * 4.0).view(rows, 2, 2))
        found.append((done, seen))
    torch.save(found, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def test_work_is_divided_and_every_process_gets_the_whole_result(tmp_path: Path) -> None:
    multiprocessing.spawn(work_in_a_process, (f"file://{tmp_path}/meet", str(tmp_path)), nprocs=PROCESSES)
    for rank in range(PROCESSES):
        found = torch.load(tmp_path / f"{rank}.pt")
        for (done, seen), rows, share in zip(found, (2, 3, 7, 8), (2, 1, 3, 3), strict=True):
            assert torch.equal(done, torch.arange(rows * 4.0).view(rows, 2, 2).square())
            assert seen == [share]


@pytest.mark.parametrize("rows", [1, 5])
def test_a_single_process_does_all_the_work(rows: int) -> None:
    assert torch.equal(divide_work(torch.neg, torch.ones(rows, 2)), -torch.ones(rows, 2))
