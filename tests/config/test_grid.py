"""Geometry of signals, images and clips: sizes, strides per axis, and one-line errors."""

from __future__ import annotations

from typing import Any

import pytest

from hjepa.config import Geometry, Level, ModelConfig, dump_config, load_config, parse_yaml, resolve
from hjepa.config.grid import axis_widths, plane
from hjepa.errors import UserError


def geometry(image_size: tuple[int, ...], patch_size: int | tuple[int, ...] | None = None, **keys: Any) -> Geometry:
    return resolve(ModelConfig.model_validate({"encoder_type": "vit_tiny_patch4_32", **keys}), image_size, patch_size)


@pytest.mark.parametrize(
    ("image_size", "patch_size", "grid"),
    [
        ((64,), None, (16,)),
        ((64,), (8,), (8,)),
        ((32, 48), None, (8, 12)),
        ((32, 48), (8, 4), (4, 12)),
        ((8, 32, 48), (2, 4, 8), (4, 8, 6)),
    ],
)
def test_the_number_of_axes_follows_the_input_size(
    image_size: tuple[int, ...], patch_size: tuple[int, ...] | None, grid: tuple[int, ...]
) -> None:
    sizes = geometry(image_size, patch_size)
    assert sizes.grid == grid
    assert sizes.axes == len(grid)
    covered = 1
    for cells in sizes.grid:
        covered *= cells
    assert sizes.num_tokens == covered
    assert [g * p for g, p in zip(sizes.grid, sizes.patch, strict=True)] == list(image_size)


def test_a_stride_is_one_number_or_one_per_axis() -> None:
    levels = [{"depth": 4}, {"depth": 8, "stride": [4, 1, 1]}, {"depth": 12, "stride": 4}, {"depth": 12, "stride": 0}]
    sizes = geometry((8, 32, 32), (1, 4, 4), levels=levels)
    assert [sizes.level_grid(i) for i in range(4)] == [(8, 8, 8), (2, 8, 8), (2, 2, 2), (1, 1, 1)]
    assert Level(2, (2, 2)) == Level(2, 2)
    assert Level(2, (2, 1)) != Level(2, (1, 2))


def test_a_list_of_strides_is_read_from_a_configuration_and_written_back() -> None:
    config = load_config("quickstart", ["model.levels=[{depth: 2}, {depth: 6, stride: [1, 2]}]"])
    assert config.geometry().level_grid(1) == (8, 4)
    assert load_config(parse_yaml(dump_config(config), "copy")) == config


@pytest.mark.parametrize(
    ("keys", "key", "hint"),
    [
        ({"image_size": (30,)}, "data.image_size", "use [32]"),
        ({"image_size": (3, 32, 32), "patch_size": (2, 4, 4)}, "data.image_size", "use [4, 32, 32]"),
        ({"image_size": (1, 2, 3, 4)}, "data.image_size", "three for a clip"),
        ({"image_size": (4, 32), "patch_size": (2, 4, 4)}, "patch_size", "give 2"),
        ({"image_size": (32, 32), "patch_size": (0, 4)}, "patch_size", "at least 1"),
        ({"image_size": (32,), "embed_dim": 33, "num_heads": 3}, "model.embed_dim", "even"),
        ({"image_size": (32, 32), "embed_dim": 30, "num_heads": 3}, "model.embed_dim", "a multiple of 4"),
        ({"image_size": (32, 32), "predictor": {"embed_dim": 30}}, "model.predictor.embed_dim", "a multiple of 4"),
        (
            {"image_size": (4, 32, 32), "embed_dim": 32, "num_heads": 8, "position": "rope"},
            "model.position",
            "at least 6",
        ),
        ({"image_size": (32,), "levels": [{"depth": 2, "stride": [2, 2]}]}, "model.levels.0.stride", "give 1"),
        ({"image_size": (32, 32), "levels": [{"depth": 2, "stride": [3, 2]}]}, "model.levels.0.stride", "1/2/4/8 by"),
        (
            {"image_size": (32, 32), "levels": [{"depth": 2, "stride": [2, 1]}, {"depth": 2, "stride": [1, 2]}]},
            "model.levels.1",
            "finest",
        ),
        (
            {"image_size": (48,), "levels": [{"depth": 2, "stride": s} for s in (2, 3, 6)]},
            "model.levels.1.stride",
            "divide one another",
        ),
    ],
)
def test_sizes_that_do_not_fit_are_a_one_line_error_with_the_key(keys: dict[str, Any], key: str, hint: str) -> None:
    with pytest.raises(UserError) as error:
        geometry(**keys)
    text = str(error.value)
    assert "\n" not in text
    assert text.split(":")[0] == key
    assert hint in text


@pytest.mark.parametrize("stride", [[0, 1], [], [-1, 2]])
def test_a_list_of_strides_must_not_contain_zero(stride: list[int]) -> None:
    with pytest.raises(UserError, match=r"model\.levels\.0\.stride.*whole image") as error:
        load_config({"model": {"levels": [{"depth": 2, "stride": stride}]}})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("width", [2, 3, 4, 6, 8, 30, 64, 192])
def test_position_features_are_divided_among_the_axes_in_pairs(width: int, axes: int) -> None:
    try:
        widths = axis_widths(width, axes)
    except ValueError:
        assert width % 2 or width < 2 * axes or (axes == 2 and width % 4)
        return
    assert len(widths) == axes
    assert sum(widths) == width
    assert all(share > 0 and share % 2 == 0 for share in widths)
    assert max(widths) - min(widths) <= 2
    assert list(widths) == sorted(widths)


def test_functions_for_images_refuse_other_inputs() -> None:
    assert plane((4, 6)) == (4, 6)
    for sizes in ((16,), (2, 4, 6)):
        with pytest.raises(UserError, match="only images"):
            plane(sizes)
    with pytest.raises(UserError, match="only images"):
        _ = geometry((64,)).height_width
