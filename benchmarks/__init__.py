"""Measurements: one question per file, each with a table, `--json FILE` and `--short`.

Run them as modules from the root of the repository, for example ``python -m benchmarks.step_stages``.
"""
