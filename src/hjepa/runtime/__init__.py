"""Process and machine: random numbers, devices, threads, locks, files, other processes. Independent of models and data."""
