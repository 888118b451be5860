"""Lets ``python -m avo_lib`` be the command line."""

from avo_lib.experiments.command_line import main

if __name__ == "__main__":
    main()
