"""The command line, which needs more than the library does: ``python -m avo_lib`` or ``avo``."""

import sys


def main() -> None:
    """Run the command line, or say what is missing."""
    try:
        from avo_lib.experiments import command_line
    except ModuleNotFoundError as error:
        sys.exit(f"error: there is no {error.name}; the command line needs: pip install 'avo-lib[experiments]'")
    command_line.main()


if __name__ == "__main__":
    main()
