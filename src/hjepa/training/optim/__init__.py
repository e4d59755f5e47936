"""Optimisers and the schedules of their hyper-parameters."""
