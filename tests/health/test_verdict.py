"""The verdict, and every rule both when it applies and when it does not."""

import pytest
from tests.health.synthetic_records import make_results, make_scores, train_record

from hjepa.health import feature_rules as rules
from hjepa.health import training_rules as run_rules
from hjepa.health.verdict import judge


def course(step=20_000, **changes):
    return [train_record(s, **changes) for s in range(1000, step + 1, 1000)]


def knn_course(values):
    return [
        {
            "kind": "eval",
            "step": 1000 * (i + 1),
            "epoch": 5.0 * (i + 1),
            "knn": value,
            "knn_queries": 1000,
            "rank/level_0": 20.0,
        }
        for i, value in enumerate(values)
    ]


def test_a_clear_gain_is_reported_with_its_size(evidence):
    verdict = judge(evidence())
    assert verdict.kind == "good"
    assert verdict.headline == "Better than both controls"
    assert "60.0%" in verdict.sentence
    assert "20.0 points above the untrained encoder" in verdict.sentence
    assert "22.0 points above raw pixels" in verdict.sentence
    assert "chance: 10.0%" in verdict.sentence
    assert "noise" not in verdict.sentence
    assert verdict.advice is None


@pytest.mark.parametrize(
    ("scores", "kind", "headline", "said"),
    [
        ((0.40, 0.35, 0.50), "warn", "below raw pixels", "10.0 points below raw pixels"),
        ((0.40, 0.35, 0.40), "warn", "no better than raw pixels", "level with raw pixels"),
        ((0.40, 0.40, 0.30), "warn", "No clear gain", "level with the untrained encoder"),
        ((0.30, 0.40, 0.20), "bad", "Worse than the untrained encoder", "10.0 points below the untrained encoder"),
    ],
)
def test_a_missing_gain_is_reported_with_its_sign(evidence, scores, kind, headline, said):
    verdict = judge(evidence(scores=scores))
    assert verdict.kind == kind
    assert headline in verdict.headline
    assert said in verdict.sentence
    assert verdict.recommendations


def test_the_same_difference_is_noise_on_few_images_and_a_gain_on_many(evidence):
    few = judge(evidence(results=make_results(0.45, 0.40, 0.30, step=20_000, images=100)))
    many = judge(evidence(results=make_results(0.45, 0.40, 0.30, step=20_000, images=10_000)))
    assert few.headline == "No clear gain over the untrained encoder"
    assert "of 100 validation images" in few.sentence
    assert "within the noise for this number of images" in few.sentence
    assert many.kind == "good"


@pytest.mark.parametrize("scores", [(0.9, 0.1, 0.1), (0.1, 0.9, 0.9), (0.40, 0.401, 0.42)])
def test_verdict_and_advice_do_not_depend_on_test(evidence, scores):
    usual = make_results(0.42, 0.40, 0.43, step=20_000, images=1000)
    other = usual | make_scores(*scores)
    assert judge(evidence(results=other)) == judge(evidence(results=usual))
    assert judge(evidence(results=usual)).recommendations


def test_test_results_alone_are_not_compared_and_validation_results_alone_are(evidence):
    both = make_results(0.60, 0.40, 0.38, step=20_000)
    alone = {key: value for key, value in both.items() if key != "validation"}
    verdict = judge(evidence(results=alone))
    assert verdict.headline == "Not evaluated on validation images"
    assert any("--split validation" in text for text in verdict.recommendations)
    validation = alone | both["validation"] | {"split": "validation"}
    assert judge(evidence(results=validation)) == judge(evidence(results=both))


def test_without_results_the_verdict_says_how_to_evaluate(evidence):
    e = evidence(results={})
    verdict = judge(e)
    assert verdict.kind == "note"
    assert verdict.headline == "Not evaluated yet"
    assert any("hjepa evaluate --checkpoint runs/x" in text for text in verdict.recommendations)
    assert run_rules.not_evaluated(evidence()) is None


def test_without_labels_the_verdict_uses_loss_and_rank(evidence):
    results = make_results(0, 0, 0, step=20_000) | {
        "linear_probe": {"skipped": "no labels"},
        "knn": {"skipped": "no labels"},
    }
    del results["validation"]  # without labels there is nothing to read
    verdict = judge(evidence(results=results))
    assert verdict.headline == "No labels to judge by"
    assert "of its chance level" in verdict.sentence
    assert "effective rank" in verdict.sentence
    stuck = judge(evidence(results=results, train=course(loss__level_0=0.31, loss__level_1=0.26)))
    assert stuck.headline == "Nothing predicted yet"


def test_collapse_overrules_accuracy(evidence):
    results = make_results(0.6, 0.4, 0.4, step=20_000)
    results["rank"]["levels"] = [{"level": 0, "trained": 1.3, "untrained": 8.0}]
    verdict = judge(evidence(results=results))
    assert verdict.headline == "Collapsed"
    assert verdict.findings[0].kind == "bad"


def test_findings_are_ordered_and_advice_has_no_duplicates(evidence):
    verdict = judge(evidence(scores=(0.3, 0.4, 0.4), train=course(data_wait=0.5), step=2000))
    order = [("bad", "warn", "good", "note").index(f.kind) for f in verdict.findings]
    assert order == sorted(order)
    assert len(verdict.recommendations) == len(set(verdict.recommendations))


def test_loss_at_chance(evidence):
    stuck = rules.loss_at_chance(evidence(train=course(loss__level_1=0.249)))
    assert stuck is not None
    assert stuck.kind == "warn"
    assert "level 1" in stuck.text
    assert "levels" not in stuck.text
    fine = rules.loss_at_chance(evidence())
    assert fine is not None
    assert fine.kind == "good"
    assert rules.loss_at_chance(evidence(train=[])) is None


def test_targets_that_become_constant(evidence):
    falling = [train_record(1000), *course(chance__level_1=0.01, loss__level_1=0.001)[1:]]
    found = rules.targets_alike(evidence(train=falling))
    assert found is not None
    assert found.kind == "bad"
    assert "level 1" in found.text
    assert rules.targets_alike(evidence()) is None


def test_rank_compared_with_the_untrained_encoder(evidence):
    def kind(trained, untrained):
        results = make_results(0.6, 0.4, 0.4, step=20_000)
        results["rank"]["levels"] = [{"level": 0, "trained": trained, "untrained": untrained}]
        return rules.collapsed(evidence(results=results)).kind

    assert kind(30.0, 8.0) == "good"
    assert kind(8.1, 8.0) == "note"
    assert kind(6.0, 8.0) == "warn"
    assert kind(2.5, 8.0) == "bad"
    assert kind(1.0, 1.5) == "bad"


def test_online_rank_is_used_without_an_evaluation(evidence):
    low = [{"kind": "eval", "step": 1000, "epoch": 5.0, "rank/level_0": 2.8, "rank": 2.8}]
    found = rules.collapsed(evidence(results={}, evaluations=low))
    assert found is not None
    assert found.kind == "warn"
    assert rules.collapsed(evidence(results={}, evaluations=knn_course([0.1]))) is None


def test_features_that_encode_position_only(evidence):
    found = rules.position_only(evidence(position=[0.95, 0.3]))
    assert found is not None
    assert "95%" in found.text
    assert rules.position_only(evidence()) is None
    assert rules.position_only(evidence(position=[None, None])) is None


def test_similar_levels_and_best_level(evidence):
    alike = make_results(0.6, 0.4, 0.4, step=20_000) | {"cka": [[1.0, 0.99], [0.99, 1.0]]}
    assert "0 and 1 (CKA 0.99)" in rules.levels_alike(evidence(results=alike)).text
    assert rules.levels_alike(evidence()) is None
    unknown = make_results(0.6, 0.4, 0.4, step=20_000) | {"cka": [[1.0, None], [None, 1.0]]}
    assert rules.levels_alike(evidence(results=unknown)) is None
    best = rules.best_level(evidence())
    assert best.kind == "good"
    assert "3.0 points above" in best.text


def test_knn_that_disagrees_with_the_probe(evidence):
    results = make_results(0.6, 0.4, 0.4, step=20_000)
    results["validation"]["knn"] |= {"trained": 0.30, "untrained": 0.20, "pixels": 0.35}
    found = rules.second_reading(evidence(results=results))
    assert found.kind == "warn"
    assert "5.0 points below raw pixels" in found.text
    assert rules.second_reading(evidence()).kind == "good"


def test_knn_over_time(evidence):
    rising = run_rules.knn_trend(evidence(evaluations=knn_course([0.2, 0.3, 0.4, 0.5])))
    assert "still rising" in rising.text
    assert "training.epochs=200" in rising.advice
    fallen = run_rules.knn_trend(evidence(evaluations=knn_course([0.2, 0.5, 0.45, 0.3])))
    assert "step 2000" in fallen.text
    assert "best_model.pth" in fallen.advice
    assert run_rules.knn_trend(evidence(evaluations=knn_course([0.3, 0.5, 0.5, 0.5]))) is None
    assert run_rules.knn_trend(evidence(evaluations=knn_course([0.3, 0.5]))) is None


def test_a_run_that_stopped_early(evidence):
    found = run_rules.stopped_early(evidence(train=course(2000), step=2000))
    assert "step 2000 of 20000 (10%)" in found.text
    assert "hjepa train --output-dir runs/x --resume auto" in found.advice
    earlier = run_rules.stopped_early(evidence(step=2000, train=course()))
    assert "earlier checkpoint" in earlier.text
    assert earlier.advice is None
    assert run_rules.stopped_early(evidence()) is None


def test_momentum_waiting_skipping_and_length(evidence):
    assert run_rules.momentum_freezes(evidence(changes={"model.ema.momentum_end": 1.0})) is not None
    assert run_rules.momentum_freezes(evidence()) is None
    long = {"model.ema.momentum_end": 1.0, "training.epochs": 1000}
    assert run_rules.momentum_freezes(evidence(changes=long)) is None
    assert "30%" in run_rules.waiting_for_data(evidence(train=course(data_wait=0.3))).text
    assert run_rules.waiting_for_data(evidence()) is None
    assert "7 of 20000" in run_rules.skipped_updates(evidence(train=course(skipped=7))).text
    assert run_rules.skipped_updates(evidence()) is None
    scaled = {"training.use_amp": True, "training.amp_dtype": "fp16"}
    assert run_rules.skipped_updates(evidence(train=course(skipped=7), changes=scaled)) is None
    short = evidence(train=course(2000), step=2000, changes={"training.epochs": 10})
    assert run_rules.short_run(short) is not None
    assert run_rules.short_run(evidence()) is None


def test_results_of_another_step_and_small_differences(evidence):
    assert "step 5" in run_rules.results_of_another_step(evidence(results=make_results(0.6, 0.4, 0.4, step=5))).text
    assert run_rules.results_of_another_step(evidence()) is None
    assert "raw pixels" in run_rules.one_seed(evidence(scores=(0.60, 0.40, 0.585))).text
    assert run_rules.one_seed(evidence()) is None
