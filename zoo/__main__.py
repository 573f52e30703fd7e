"""Runs the command line: `python -m zoo`."""

from zoo.cli.commands import main

if __name__ == "__main__":  # Processes that this one spawns import it, too.
    main()
