"""The process and its machine: random numbers, devices, threads, locks, files, other processes. Knows no model and no data."""
