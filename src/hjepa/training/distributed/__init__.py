"""Distributing a model over processes, and the per-process state of a run."""
