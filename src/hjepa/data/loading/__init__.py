"""Load batches from a data set: order of images, worker processes, first pass over a split."""
