"""What the records and results of a run say about its features and its training. Reads numbers, never models or images."""
