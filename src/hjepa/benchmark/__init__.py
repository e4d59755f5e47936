"""Measuring the whole training step against what the machine can do."""
