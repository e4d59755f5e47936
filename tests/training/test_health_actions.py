"""The light in records and log, actions on red, and that they survive a resumed run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import Observed, Run

from hjepa.data import Batch
from hjepa.errors import HealthError
from hjepa.masking import Masks
from hjepa.methods import HJepa, StepOutput, register
from hjepa.runs.checkpoint import read_checkpoint
from hjepa.runs.records import read_records
from hjepa.training.watch import FACTOR, MOST_REWINDS, Remedies

# Every evaluation is red: features would have to be a hundred times as far apart as those of the untrained encoder.
# Nothing else is judged: so short a run never falls below its chance level.
RED = {"health.cosine": [100.0, 100.0], "health.chance": [100.0, 100.0], "health.patience": 1}


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def actions(folder: Path) -> list[dict[str, Any]]:
    return [line for line in lines(folder) if line["kind"] == "health"]


def rates(seen: Observed) -> dict[int, float]:
    return {r["step"]: r["lr"] for r in seen.records}


def test_every_record_has_a_light_and_evaluations_say_why(run: Run) -> None:
    seen = run(RED)
    assert {record["health"] for record in seen.records} <= {"green", "amber", "red"}
    for evaluation in seen.evals:
        assert (evaluation["health"], evaluation["light"]) == ("red", 2)
        worst = evaluation["signs"][0]
        assert (worst["figure"], worst["light"], worst["limit"]) == ("cosine", "red", 100.0)
        for name in ("std", "dead", "rank", "cosine", "lidar", "position"):
            assert f"{name}/level_1" in evaluation
    assert "-> red at step 6: the 1 - cosine between images at level" in seen.log
    assert "(health.cosine: red below 100)" in seen.log
    # Records of training say it too, until the next evaluation.
    assert all("cosine" in {sign["figure"] for sign in r["signs"]} for r in seen.records if r["step"] > 6)
    # Without actions nothing changes.
    assert not actions(seen.folder)
    assert torch.equal(seen.weights, run().weights)


def test_a_healthy_run_is_never_red(run: Run) -> None:
    seen = run({"training.epochs": 20, "training.lr": 5e-3})
    assert not [line for line in lines(seen.folder) if line.get("health") == "red"]
    assert seen.state["health"]["monitor"]["untrained"][1]["rank"] > 1


@register("late_collapse")
class LateCollapse(HJepa):
    """After half of the run, the loss of level 1 is raised instead of lowered."""

    def forward(self, batch: Batch, plan: Masks, step: int) -> StepOutput:
        assert self.horizon is not None
        late = step >= self.horizon.total_steps // 2
        self.objective.level_weights.copy_(torch.tensor([1.0, -2.0 if late else 1.0]))
        return super().forward(batch, plan, step)


def test_a_late_collapse_is_seen_though_the_total_falls(run: Run) -> None:
    keys = {
        "method": "late_collapse",
        "training.epochs": 20,
        "training.lr": 5e-3,
        "training.lr_schedule": "constant",
        "model.ema.momentum": 0.9,
        "model.ema.momentum_end": 0.9,
    }
    seen = run(keys)
    half = len(seen.records) // 2
    before, after = seen.records[:half], seen.records[half:]
    # The total alone looks like progress.
    assert max(r["loss"] for r in after[3:]) < min(r["loss"] for r in before)
    assert "red" not in {r["health"] for r in before}
    assert after[-1]["health"] == "red"
    found = {(sign["figure"], sign["where"]) for r in after for sign in r.get("signs", ()) if sign["light"] == "red"}
    assert ("rise", "loss/level_1") in found
    assert all(where != "loss/level_0" for figure, where in found if figure == "rise")


def test_red_is_saved_apart(run: Run) -> None:
    seen = run({**RED, "health.actions": ["save"]})
    assert read_checkpoint(seen.folder / "checkpoints" / "checkpoint_red_step_6.pth")["step"] == 6
    (action,) = actions(seen.folder)
    assert (action["at"], action["actions"], action["signs"][0]["figure"]) == (6, ["save"], "cosine")
    # It does not take the place of another checkpoint.
    assert "checkpoints/checkpoint_epoch_1.pth" in seen.files()


def test_the_learning_rate_is_lowered_once_per_red_phase(run: Run) -> None:
    before, after = rates(run()), rates(run({**RED, "health.actions": ["lower_lr"]}))
    assert [after[step] / before[step] for step in range(1, 13)] == pytest.approx([1.0] * 6 + [FACTOR] * 6)


def test_the_momentum_is_raised(run: Run) -> None:
    before, after = (
        {r["step"]: 1 - r["momentum"] for r in run(keys).records}
        for keys in ({}, {**RED, "health.actions": ["raise_momentum"]})
    )
    assert [after[step] / before[step] for step in range(1, 12)] == pytest.approx([1.0] * 6 + [FACTOR] * 5, rel=1e-6)


def test_a_run_can_be_stopped(run: Run, tmp_path: Path) -> None:
    with pytest.raises(
        HealthError, match=r"health: red at step 6: .*stopped because health\.actions has stop"
    ) as error:
        run({**RED, "health.actions": ["lower_lr", "stop"]}, folder=tmp_path / "run")
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 3
    state = read_checkpoint(tmp_path / "run" / "checkpoints" / "last.pth")
    assert (state["step"], state["health"]["remedies"]["lr"]) == (6, FACTOR)
    # It goes on where it stopped, with the lowered rate, once nobody asks it to stop.
    seen = run(RED, folder=tmp_path / "run", resume="auto")
    assert seen.outcome.completed
    assert rates(seen)[7] == pytest.approx(rates(run())[7] * FACTOR)


def test_patience(run: Run) -> None:
    keys = {**RED, "health.patience": 2, "health.actions": ["lower_lr"], "training.epochs": 3}
    assert [action["at"] for action in actions(run(keys).folder)] == [12]


def test_a_run_goes_back_to_the_last_good_checkpoint(run: Run) -> None:
    # A limit between the first evaluations, which are better, and a later one.
    plain = run({"training.epochs": 4})
    start = plain.state["health"]["monitor"]["untrained"]
    spreads = [min(e[f"std/level_{n}"] / start[n]["spread"] for n in (0, 1)) for e in plain.evals]
    later = next((i for i in range(1, 4) if spreads[i] < min(spreads[:i])), None)
    assert later is not None, spreads
    limit = (min(spreads[:later]) + spreads[later]) / 2
    keys = {"training.epochs": 4, **RED, "health.actions": ["rewind"]}
    keys |= {"health.cosine": [0.0, 0.0], "health.spread": [limit, limit]}
    seen = run(keys)
    first = actions(seen.folder)[0]
    assert (first["at"], first["step"], first["actions"]) == (6 * (later + 1), 6 * later, ["rewind"])
    good = read_checkpoint(seen.folder / "checkpoints" / "last_good.pth")
    assert good["health"]["monitor"]["red"]["evaluation"] == 0
    assert seen.outcome.completed
    # The records are those of the way that was taken in the end, at a lower rate.
    records = read_records(seen.folder / "metrics.jsonl")
    before, after = rates(plain), {r["step"]: r["lr"] for r in records.train}
    assert list(after) == list(range(1, 25))
    times = sum("rewind" in action["actions"] for action in actions(seen.folder))
    assert 1 <= times <= MOST_REWINDS
    assert after[24] == pytest.approx(before[24] * FACTOR**times)


def test_without_a_good_checkpoint_it_goes_on_and_says_so(run: Run) -> None:
    seen = run({**RED, "health.actions": ["rewind"]})
    assert seen.outcome.completed
    assert "not going back to an earlier checkpoint: no checkpoint has a light that is not red" in seen.log
    assert [action["actions"] for action in actions(seen.folder)] == [[]]


def test_remedies_add_up() -> None:
    once = Remedies().after(("lower_lr", "raise_momentum", "save"))
    assert (once.lr, once.momentum_gap, once.rewinds) == (FACTOR, FACTOR, 0)
    back = once.after_rewind_to(Remedies())
    assert (back.lr, back.momentum_gap, back.rewinds) == (pytest.approx(FACTOR**2), FACTOR, 1)
    assert back.after_rewind_to(Remedies()).lr == pytest.approx(FACTOR**3)


def test_a_resumed_run_equals_a_whole_one_bit_by_bit_with_actions(run: Run, tmp_path: Path) -> None:
    keys = {**RED, "health.actions": ["lower_lr", "raise_momentum"], "training.epochs": 3}
    whole = run(keys)
    run({**keys, "training.max_steps": 8}, folder=tmp_path / "parts")
    parts = run(keys, folder=tmp_path / "parts", resume="auto")
    assert torch.equal(whole.weights, parts.weights)
    assert whole.state["health"] == parts.state["health"]
    assert whole.state["health"]["remedies"]["lr"] == FACTOR
