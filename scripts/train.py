"""Runs `hjepa train`."""

from hjepa.cli.main import main

if __name__ == "__main__":
    main(verb="train")
