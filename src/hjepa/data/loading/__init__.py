"""From a data set to batches: order, workers, the first reading of a split."""
