"""The command line, which needs more than the library does: ``python -m avo_lib`` or ``avo``."""

import sys


def main() -> None:
    """Run the command line, or say what is missing."""
    try:
        try:
            from avo_lib.experiments import command_line
        except ModuleNotFoundError as error:
            sys.exit(f"error: there is no {error.name}; the command line needs: pip install '.[experiments]'")
        command_line.main()
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from what is finished", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
