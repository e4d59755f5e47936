"""By how much choosing on test can flatter: from the file of `benchmarks.selection_bias`, once it is there."""

from __future__ import annotations

from benchmarks.published.readings import Published
from benchmarks.published.text import points, table

FILE = "selection_bias.json"
ANEW = "the full-length recipe trained anew, of all rows on CIFAR-10"
PAGE = "docs/results/README.md#how-measured-and-what-chose-the-recipe"


def bias(published: Published) -> str:
    """The estimate, or that there is none yet."""
    if not (published.root / FILE).is_file():
        return "By how much that can flatter has not been estimated yet."
    tree = published.json(FILE)
    header = ("what may lie too high", "compared", "noise of a seed", "of the test images", "expected", "at most")
    keys = ("seed_points", "test_images_points", "expected_points", "bound_points")
    rows = [[name, str(case["compared"]), *(points(case[key]) for key in keys)] for name, case in tree["cases"].items()]
    about = (
        f"By how much that can flatter, in points, if noise alone decided ([figures]({FILE}), "
        "`python -m benchmarks.selection_bias`). Seeds of one recipe differ by "
        f"{100 * tree['seed_deviation']:.2f} points (standard deviation); the chosen recipe has "
        f"{points(100 * tree['chosen'])}, trained anew with another seed {points(100 * tree['chosen_other_seed'])}:"
    )
    return f"{about}\n\n{table(header, rows)}"


def flattered(published: Published) -> str:
    """The same in a sentence, for the first page."""
    by = ""
    if (published.root / FILE).is_file():
        case = published.json(FILE)["cases"][ANEW]
        by = f", by {points(case['expected_points'])} points if noise alone had decided"
    return (
        "**The recipe was chosen by looking at the test accuracy of short runs, so the figures of trained encoders "
        f"flatter{by}**; [how they were measured]({PAGE})."
    )
