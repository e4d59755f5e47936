"""Shards: tar files of samples in the WebDataset layout, local or on the web, read in any order."""
