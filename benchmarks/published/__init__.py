"""The published figures, read from the files under ``docs/results``, and the tables that are made of them.

`benchmarks.tables` writes the tables into the pages; a test holds the pages to the files.
"""
