"""The estimated bias from choosing on test: from the file of `benchmarks.selection_bias`, if it exists."""

from __future__ import annotations

from benchmarks.published.readings import Published
from benchmarks.published.text import points, table

FILE = "selection_bias.json"
NEW_RUN = "new run of the recipe chosen from all runs on CIFAR-10"
PAGE = "docs/results/README.md#how-the-results-were-measured"


def bias(published: Published) -> str:
    """The estimate, or a statement that there is none yet."""
    if not (published.root / FILE).is_file():
        return "The resulting bias has not been estimated yet."
    tree = published.json(FILE)
    header = (
        "estimated bias in the accuracy of the",
        "runs compared",
        "seed noise",
        "test-image noise",
        "expected bias",
        "upper bound",
    )
    keys = ("seed_points", "test_images_points", "expected_points", "bound_points")
    rows = [[name, str(case["compared"]), *(points(case[key]) for key in keys)] for name, case in tree["cases"].items()]
    about = (
        "The table estimates the resulting bias in points, for the worst case that all recipes are equally good and noise "
        f"alone decided ([data]({FILE}), `python -m benchmarks.selection_bias`). The standard deviation between seeds of one "
        f"recipe is {100 * tree['seed_deviation']:.2f} points. The chosen recipe reached {points(100 * tree['chosen'])}, and "
        f"{points(100 * tree['chosen_other_seed'])} in a new run with another seed."
    )
    return f"{about}\n\n{table(header, rows)}"


def flattered(published: Published) -> str:
    """The same in a sentence, for the README."""
    by = ""
    if (published.root / FILE).is_file():
        case = published.json(FILE)["cases"][NEW_RUN]
        by = f", by about {points(case['expected_points'])} points if noise alone decided the choice"
    return (
        "**The recipe was chosen by the test accuracy of short runs, so the accuracies of trained encoders are "
        f"optimistic{by}** ([how they were measured]({PAGE}))."
    )
