"""Runs `hjepa visualize`."""

from hjepa.cli.main import main

if __name__ == "__main__":
    main(verb="visualize")
