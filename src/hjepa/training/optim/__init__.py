"""Optimisers and hyper-parameter schedules."""
