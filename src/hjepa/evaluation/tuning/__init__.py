"""Evaluation by training an encoder with labels: fine-tuning, and the supervised control."""
