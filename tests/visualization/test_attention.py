"""Rollout, and maps over pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hjepa.runs.load import load_run
from hjepa.visualization.figures.attention import attention_figure, cell_outline, central_cell
from hjepa.visualization.figures.heat import heat, strength
from hjepa.visualization.figures.rollout import rollout_figure, spread
from hjepa.visualization.figures.style import DARK, LIGHT, to_png, to_svg
from hjepa.visualization.material import Material
from hjepa.visualization.rollout import rollout


def weights_of(blocks: int, tokens: int = 6) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, 3, tokens, tokens, generator=generator).softmax(dim=-1) for _ in range(blocks)]


def test_rows_of_a_rollout_sum_to_one_after_every_block() -> None:
    for after in rollout(weights_of(4)):
        torch.testing.assert_close(after.sum(dim=-1), torch.ones(2, 6))
        assert after.min() >= 0


def test_rollout_multiplies_later_blocks_from_the_left() -> None:
    # The first block moves token 1 to token 0, the second token 0 to token 2: token 2 comes to a quarter from token 1.
    def moving(to: int, source: int) -> torch.Tensor:
        matrix = torch.eye(3)
        matrix[to] = 0
        matrix[to, source] = 1
        return matrix.expand(1, 2, 3, 3)

    last = rollout([moving(0, 1), moving(2, 0)])[-1][0]
    assert last[2].tolist() == [0.25, 0.25, 0.5]
    assert last[0].tolist() == [0.5, 0.5, 0.0]
    with pytest.raises(ValueError, match="at least one block"):
        rollout([])


def test_without_attention_to_others_every_token_keeps_itself() -> None:
    own = torch.eye(5).expand(1, 2, 5, 5)
    assert torch.equal(rollout([own, own, own])[-1][0], torch.eye(5))


def test_heat_is_brightest_at_the_maximum_and_dark_where_nothing_is() -> None:
    picture = np.full((8, 12, 3), 128, dtype=np.uint8)
    values = torch.zeros(6)
    values[4] = 1.0
    seen = heat(picture, values, (2, 3)).astype(int).sum(axis=2)
    assert seen.shape == (8, 12)
    assert (seen[4:, 4:8] == seen.max()).all()
    assert (seen[:4] == seen.min()).all()
    # An even map is not bright.
    assert heat(picture, torch.full((6,), 1 / 6), (2, 3)).astype(int).sum(axis=2).max() < seen.max()
    assert strength(values) == "max 6.0\N{MULTIPLICATION SIGN}"
    assert strength(torch.full((64,), 1 / 64)) == "max 1.0\N{MULTIPLICATION SIGN}"


def test_the_marked_cell_is_the_one_that_is_asked() -> None:
    assert central_cell((4, 6)) == 2 * 6 + 3
    assert set(cell_outline(15, (4, 6))) == {
        ((3 / 6, 2 / 4), (4 / 6, 2 / 4)),
        ((4 / 6, 2 / 4), (4 / 6, 3 / 4)),
        ((4 / 6, 3 / 4), (3 / 6, 3 / 4)),
        ((3 / 6, 3 / 4), (3 / 6, 2 / 4)),
    }
    assert spread((1, 2, 3, 4, 5, 6, 7, 8), 4) == [1, 3, 6, 8]
    assert spread((5,), 4) == [5]


def test_figures_draw_in_both_themes_and_as_equal_svg(labelled_run) -> None:
    run = load_run(labelled_run, device="cpu")
    material = Material(run, labelled_run, run.config)
    for figure in (
        attention_figure(material.shown, run.encoder),
        rollout_figure(material.shown, run.encoder, material.untrained),
    ):
        assert to_png(figure.draw(LIGHT)) != to_png(figure.draw(DARK))
        assert to_svg(figure.draw(LIGHT)) == to_svg(figure.draw(LIGHT))
        assert "64 patches" in figure.caption
