"""The light on features and courses of training whose state is known."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hjepa.config import HealthConfig
from hjepa.health.course import Course, Interval
from hjepa.health.light import Health, Light, Sign, feature_signs
from hjepa.health.measures import LevelMeasures, Measuring

LIMITS = HealthConfig()


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def measure(cells: Tensor) -> LevelMeasures:
    measuring = Measuring()
    measuring.add([cells])
    return measuring.measures()[0]


def untrained(images: int = 1000, cells: int = 16, width: int = 64) -> Tensor:
    """As of a random network: one common vector, a few directions of content, some position."""
    content = noise(images, 10, seed=1) * torch.logspace(0, -1, 10) @ noise(10, width, seed=2) / 10**0.5
    return (
        content[:, None]
        + 1.5 * noise(1, 1, width, seed=3)
        + 0.4 * noise(1, cells, width, seed=4)
        + 0.6 * noise(images, cells, width, seed=5)
    )


def healthy() -> Tensor:
    return noise(1000, 1, 64) + 0.5 * noise(1, 1, 64, seed=3) + 0.5 * noise(1000, 16, 64, seed=5)


COLLAPSES: dict[str, tuple[Callable[[], Tensor], set[str]]] = {
    "constant": (lambda: noise(1, 1, 64).expand(1000, 16, 64), {"spread", "cosine", "rank", "lidar"}),
    "nearly constant": (lambda: noise(1, 1, 64) + 0.02 * noise(1000, 16, 64, seed=1), {"spread", "cosine", "rank"}),
    "low rank": (lambda: noise(1000, 1, 2) @ noise(2, 64, seed=2) + 0.01 * noise(1000, 16, 64, seed=1), {"rank", "lidar"}),
    "few clusters": (
        lambda: noise(3, 1, 64)[torch.arange(1000) % 3] + 0.02 * noise(1000, 16, 64, seed=1), {"rank", "lidar"},
    ),
    "position only": (lambda: noise(1, 16, 64) + 0.02 * noise(1000, 16, 64, seed=1), {"position", "rank"}),
}  # fmt: skip


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_untrained_and_healthy_features_are_green(scale: float) -> None:
    before = [measure(scale * untrained())]
    assert feature_signs(before, before, LIMITS) == []
    assert feature_signs([measure(scale * healthy())], before, LIMITS) == []


@pytest.mark.parametrize("name", COLLAPSES)
def test_collapsed_features_are_red_for_the_right_reason(name: str) -> None:
    make, figures = COLLAPSES[name]
    signs = feature_signs([measure(make())], [measure(untrained())], LIMITS)
    assert {sign.figure for sign in signs if sign.light is Light.RED} >= figures
    assert all(sign.where == "level 0" for sign in signs)


def test_one_collapsed_level_of_two_is_named() -> None:
    before = [measure(untrained())] * 2
    signs = feature_signs([measure(healthy()), measure(COLLAPSES["constant"][0]())], before, LIMITS)
    assert signs
    assert {sign.where for sign in signs} == {"level 1"}


def test_exploding_features_are_red() -> None:
    cells = healthy()
    cells[0, 0, 0] = math.inf
    (sign,) = feature_signs([measure(cells)], None, LIMITS)
    assert (sign.light, sign.figure) == (Light.RED, "finite")


def test_without_the_untrained_encoder_only_constant_features_are_a_sign() -> None:
    assert feature_signs([measure(COLLAPSES["low rank"][0]())], None, LIMITS) == []
    (sign,) = feature_signs([measure(COLLAPSES["constant"][0]())], None, LIMITS)
    assert (sign.light, sign.figure) == (Light.RED, "spread")


def test_limits_are_those_of_the_configuration() -> None:
    level = [measure(untrained())]
    (sign,) = feature_signs(level, level, HealthConfig(cosine=(2.0, 1.5)))
    assert (sign.light, sign.figure, sign.value, sign.limit) == (Light.RED, "cosine", 1.0, 1.5)
    (sign,) = feature_signs(level, level, HealthConfig(cosine=(2.0, 0.5)))
    assert (sign.light, sign.limit) == (Light.AMBER, 2.0)
    for limits in ({"chance": (0.9, 0.5)}, {"rank": (0.2, 0.5)}, {"rank": (0.2, -0.5)}):
        with pytest.raises(ValueError, match="amber comes first"):
            HealthConfig(**limits)


class Run:
    """Feeds a course with made-up records of a run of 200."""

    def __init__(self, infonce: bool = False) -> None:
        self.course = Course(LIMITS, infonce)
        self.count = 0

    def __call__(self, gradient: float = 1.0, chance: float = 0.5, **terms: float) -> list[Sign]:
        self.count += 1
        named = {name.replace("level", "loss/level"): value for name, value in terms.items()}
        levels = {name: chance for name in named if name.startswith("loss/")}
        return self.course.record(Interval(named, levels, gradient, self.count / 200, self.count > 5))


def test_a_healthy_course_is_green() -> None:
    run = Run()
    draw = torch.Generator().manual_seed(0)
    for step in range(200):
        jitter = 1 + 0.05 * float(torch.randn((), generator=draw))
        falling = 0.3 * math.exp(-step / 60) + 0.15
        assert (
            run(1.0 * jitter, loss=falling * jitter, level_0=falling * jitter, variance=0.2 * math.exp(-step / 30))
            == []
        )
        if step % 20 == 0:
            assert run.course.evaluation(0.3 + step / 1000, 500) == []


def test_one_rising_term_is_seen_while_the_total_falls() -> None:
    run = Run()
    for step in range(60):
        assert run(loss=2 - step / 60, level_0=0.3, variance=0.1) == []
    found: set[tuple[str, str]] = set()
    for step in range(60):
        signs = run(loss=1 - step / 120, level_0=0.3 + step / 200, variance=0.1 + step / 20)
        found |= {(s.figure, s.where) for s in signs}
    assert found >= {("rise", "loss/level_0"), ("rise_of_terms", "variance")}
    assert {where for _, where in found} == {"loss/level_0", "variance"}


def test_a_covariance_that_triples_as_features_spread_out_is_green() -> None:
    run = Run()
    for step in range(200):
        assert run(loss=1.0, level_0=0.3, covariance=0.1 + step / 1000) == []


def test_a_term_that_was_next_to_nothing_beside_the_loss_may_rise() -> None:
    # A small healthy model: features were alike at the start, and so had no covariance, then spread out.
    run = Run()
    for step in range(200):
        assert run(loss=0.4, level_0=0.3, covariance=0.005 if step < 20 else 0.005 + 0.115 * (step - 20) / 180) == []
    # But not to many times the loss.
    assert [s.figure for s in [run(loss=0.4, level_0=0.3, covariance=5.0) for _ in range(20)][-1]] == ["rise_of_terms"]


def test_a_loss_that_rises_with_the_spread_of_its_targets_is_no_trouble() -> None:
    run = Run()
    for step in range(100):
        assert (
            run(loss=0.1 + step / 1000, level_0=0.1 + step / 1000, chance=(0.1 + step / 1000) / (0.9 - step / 500))
            == []
        )


def test_a_loss_at_chance_is_amber_and_one_above_it_red() -> None:
    run = Run()
    for _ in range(19):
        assert run(level_0=0.5) == []
    (sign,) = run(level_0=0.5)
    assert (sign.light, sign.figure, sign.where) == (Light.AMBER, "chance", "loss/level_0")
    # Above chance from the start, as an untrained predictor is: still amber.
    (sign,) = run(level_0=0.8)
    assert sign.light is Light.AMBER
    assert "below which it has never been" in sign.text
    lost = Run()
    for _ in range(40):
        lost(level_0=0.3)
    assert ("chance", Light.RED) in {(s.figure, s.light) for s in lost(level_0=0.8)}


def test_a_level_that_never_falls_below_chance_is_red_after_half_of_the_run() -> None:
    run = Run()
    lights = [max((s.light for s in run(level_0=0.6)), default=Light.GREEN) for _ in range(200)]
    assert (lights[18], lights[19], lights[98], lights[99]) == (Light.GREEN, Light.AMBER, Light.AMBER, Light.RED)


def test_a_loss_far_above_chance_is_red_from_the_first_record_on() -> None:
    (sign,) = Run()(level_0=8.0)
    assert (sign.light, sign.figure, sign.where) == (Light.RED, "diverging", "loss/level_0")
    # The reason stays the same while the targets become alike, which large weights lead to.
    run = Run()
    run(level_0=0.6)
    assert run(level_0=8.0, chance=0.001)[0].figure == "diverging"


def test_collapsed_targets_are_not_taken_for_a_diverging_loss() -> None:
    run = Run()
    run(level_0=0.6)
    # A hundred times the chance level, because there is next to none.
    assert not [s for s in run(level_0=0.1, chance=0.001) if s.figure == "diverging"]


def test_targets_that_become_alike() -> None:
    run = Run()
    run(level_0=0.4)
    signs = run(level_0=0.01, chance=0.02)
    assert ("shrunk", Light.RED) in {(s.figure, s.light) for s in signs}
    contrastive = Run(infonce=True)
    contrastive(level_0=0.4)
    assert not [s for s in contrastive(level_0=0.01, chance=0.02) if s.figure == "shrunk"]


def test_a_gradient_far_above_its_median() -> None:
    run = Run()
    for _ in range(20):
        assert run(1.0, loss=1.0) == []
    assert [s.light for s in run(30.0, loss=1.0)] == [Light.AMBER]
    assert [s.light for s in run(300.0, loss=1.0)] == [Light.RED]
    assert [(s.light, s.figure) for s in run(math.inf, loss=1.0)] == [(Light.RED, "finite")]
    assert [(s.light, s.figure) for s in run(1.0, loss=math.nan)] == [(Light.RED, "finite")]


def test_knn_is_compared_with_its_own_best_beyond_noise() -> None:
    course = Course(LIMITS)
    assert course.evaluation(0.60, 1000) == []
    assert course.evaluation(0.57, 1000) == []
    assert [s.light for s in course.evaluation(0.50, 1000)] == [Light.AMBER]
    assert [s.light for s in course.evaluation(0.30, 1000)] == [Light.RED]
    few = Course(LIMITS)
    few.evaluation(0.6, 10)
    assert few.evaluation(0.4, 10) == []


def test_a_restored_course_says_the_same() -> None:
    whole, first = Run(), Run()
    for run in (whole, first):
        for step in range(40):
            run(loss=2 - step / 60, level_0=0.3, variance=0.1)
            run.course.evaluation(0.5, 1000)
    second = Run()
    second.count = first.count
    second.course.restore(first.course.state())
    for step in range(40):
        made = {"loss": 1.0, "level_0": 0.3, "variance": 0.1 + step / 100}
        assert whole(20.0, **made) == second(20.0, **made)
    assert whole.course.evaluation(0.2, 1000) == second.course.evaluation(0.2, 1000) != []


def test_the_worst_sign_is_the_light() -> None:
    amber = Sign(Light.AMBER, "rank", "level 0", 0.7, 0.8, "low")
    red = Sign(Light.RED, "cosine", "level 1", 0.999, 0.99, "alike")
    assert Health().light is Light.GREEN
    health = Health((amber,)).and_([red])
    assert (health.light, health.reason) == (Light.RED, "alike")
    assert [Sign.from_dict(sign.as_dict()) for sign in health.signs] == [red, amber]


def test_no_accuracy_of_a_few_images_is_a_fall() -> None:
    course = Course(LIMITS)
    assert course.evaluation(0.075, 40) == []
    assert course.evaluation(0.0, 40) == []
    assert [sign.figure for sign in course.evaluation(0.0, 4000)] == ["knn"]


def test_the_most_telling_of_equal_signs_is_the_reason() -> None:
    signs = [Sign(Light.RED, figure, "", 0.0, 1.0, figure) for figure in ("gradient", "shrunk", "rank", "spread")]
    amber = Sign(Light.AMBER, "position", "", 0.0, 1.0, "position")
    assert [s.figure for s in Health().and_([amber, *signs]).signs] == [
        "spread",
        "rank",
        "shrunk",
        "gradient",
        "position",
    ]
