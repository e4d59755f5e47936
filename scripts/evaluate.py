"""Runs `hjepa evaluate`."""

from hjepa.cli.main import main

if __name__ == "__main__":
    main(verb="evaluate")
