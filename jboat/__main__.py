"""``python -m jboat COMMAND``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import sys

from jboat.trainers.commands import doctor


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m jboat", description="Bilevel optimization on Jittor.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("doctor", help="report what Jittor needs, what is missing, and how to mend it")
    parser.parse_args(arguments)
    return doctor.main()


if __name__ == "__main__":
    sys.exit(main())
