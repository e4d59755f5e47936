"""`hjepa evaluate` under the name that the plan gave it."""

from hjepa.cli.main import main

if __name__ == "__main__":
    main(verb="evaluate")
