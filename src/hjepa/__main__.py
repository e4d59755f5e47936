"""``python -m hjepa`` and ``torchrun -m hjepa``."""

from hjepa.cli.main import main

if __name__ == "__main__":
    main()
