"""Generated scenes: answers that fit the pictures, the same whatever is drawn beside them."""

import pytest
import torch

from hjepa.data.scenes import MASK_CLASSES, MOST_OBJECTS, generate_scenes
from hjepa.data.shapes import CLASSES


@pytest.fixture(scope="module")
def scenes():
    return generate_scenes(60)


def test_a_scene_does_not_depend_on_how_many_are_drawn_nor_on_the_chunk(scenes):
    fewer = generate_scenes(7, chunk=3)
    assert torch.equal(fewer.images, scenes.images[:7])
    assert torch.equal(fewer.masks, scenes.masks[:7])
    for own, other in zip(fewer.objects, scenes.objects, strict=False):
        assert torch.equal(own.boxes, other.boxes)
        assert torch.equal(own.labels, other.labels)


def test_splits_and_seeds_differ(scenes):
    assert not torch.equal(generate_scenes(4, split="test").images, scenes.images[:4])
    assert not torch.equal(generate_scenes(4, seed=1).images, scenes.images[:4])


def test_every_class_and_number_of_objects_occurs(scenes):
    labels = torch.cat([found.labels for found in scenes.objects])
    assert set(labels.tolist()) == set(range(len(CLASSES)))
    assert {len(found.labels) for found in scenes.objects} == set(range(1, MOST_OBJECTS + 1))
    assert set(scenes.masks.unique().tolist()) == set(range(len(MASK_CLASSES)))


def test_the_box_of_a_lone_object_is_the_extent_of_its_mask(scenes):
    alone = [
        i for i, found in enumerate(scenes.objects) if len(found.labels) == 1 and len(scenes.masks[i].unique()) == 2
    ]
    assert alone
    for index in alone:
        rows, columns = scenes.masks[index].nonzero(as_tuple=True)
        extent = [rows.min(), columns.min(), rows.max() - rows.min() + 1, columns.max() - columns.min() + 1]
        assert scenes.objects[index].boxes[0].tolist() == [int(v) for v in extent]
        assert int(scenes.masks[index].max()) == int(scenes.objects[index].labels[0]) + 1


def test_boxes_are_inside_the_picture_and_hold_pixels_of_their_class(scenes):
    for mask, found in zip(scenes.masks, scenes.objects, strict=True):
        for (top, left, height, width), label in zip(found.boxes.int().tolist(), found.labels.tolist(), strict=True):
            assert top >= 0
            assert left >= 0
            assert top + height <= 32
            assert left + width <= 32
            assert (mask[top : top + height, left : left + width] == label + 1).any()


def test_objects_stand_out_from_the_background(scenes):
    # Otherwise there would be nothing to segment: inside and outside differ more than two halves of the outside.
    images, objects = scenes.images.float(), (scenes.masks > 0)[:, None]
    inside = (images * objects).sum((2, 3)) / objects.sum((2, 3))
    outside = (images * ~objects).sum((2, 3)) / (~objects).sum((2, 3))
    assert (inside - outside).abs().amax(dim=1).mean() > 15


def test_other_sizes_and_channels():
    scenes = generate_scenes(3, image_size=(24, 40), channels=1)
    assert scenes.images.shape == (3, 1, 24, 40)
    assert scenes.masks.shape == (3, 24, 40)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": 0}, "at least 1"),
        ({"count": 2, "image_size": (8, 8)}, "at least 16"),
        ({"count": 2, "split": "val"}, "one of train, test"),
    ],
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        generate_scenes(**arguments)
