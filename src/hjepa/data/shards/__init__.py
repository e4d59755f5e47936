"""Shards: tar files of samples in the WebDataset layout, on disks and behind web addresses, read in any order."""
