"""Process and machine: random numbers, devices, threads, locks, files, process groups. Knows no models or data."""
