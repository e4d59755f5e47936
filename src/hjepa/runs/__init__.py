"""The run folder and its checkpoints: where they are, how they are written, read and loaded."""
