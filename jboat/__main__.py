"""``python -m jboat COMMAND``, or ``jboat COMMAND``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import os
import signal
import sys

from jboat import __version__
from jboat.spelled_parser import SpelledParser

_PIPE_CLOSED = 128 + signal.SIGPIPE
"""What a shell says of a program that ended so."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    parser = commands_parser()
    given = parser.parse_args(arguments)
    if given.command is None:
        parser.print_help(sys.stderr)
        return 2
    if given.command in ("train", "warmup"):  # they run a program of the user's, whose errors are its own
        return _run(given, parser)
    try:
        status = _run(given, parser)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:  # who reads, such as head, has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python still flushes when it ends
        return _PIPE_CLOSED
    return status


def commands_parser() -> SpelledParser:
    """What reads the command line."""
    parser = SpelledParser(prog="jboat", description="Bilevel optimization on Jittor.")
    parser.add_argument("--version", action="version", version=f"jboat {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.add_parser("doctor", help="report what Jittor needs, what is missing, and how to fix it")
    commands.add_parser("changes", help="list what jboat changes in the process that it runs in")
    commands.add_parser("callbacks", help="list the callbacks and schedules with their arguments")
    listing = commands.add_parser("ops", help="list the operators, their options, costs and papers")
    listing.add_argument("--chains", action="store_true", help="list the valid chains instead")
    listing.add_argument("--markdown", action="store_true", help="print the page docs/operators.md instead")
    listing.add_argument(
        "--recommend", action="store_true", help="tell which method suits which problem; with --markdown as a page"
    )
    for name, text in (("train", "run a configuration file"), ("validate", "report every error of one")):
        command = commands.add_parser(name, help=text)
        command.add_argument(
            "config", nargs="+", help="a .json or .toml file, a folder with BOAT's two files, or these two files"
        )
        command.add_argument(
            "--set", action="append", default=[], metavar="KEY=VALUE", help="replace a value; repeatable"
        )
    ahead = commands.add_parser("warmup", help="compile the kernels of a job ahead of time")
    ahead.add_argument("config", nargs="?", help="a configuration, as train takes it; without one, README's program")
    ahead.add_argument(
        "--example",
        metavar="NAME",
        help="a program in the folder examples, such as data_hyper_cleaning, or any program's path",
    )
    ahead.add_argument(
        "--arguments", nargs=argparse.REMAINDER, default=[], help="all that follows is the example's command line"
    )
    look = commands.add_parser("inspect", help="tell what a checkpoint, or a file of weights, holds")
    look.add_argument("file", help="an .npz file; nothing in it is executed")
    shells = commands.add_parser("completion", help="print a script by which the shell completes these commands")
    shells.add_argument("shell", choices=("bash", "zsh"), help="to use it: source <(jboat completion bash)")
    return parser


def _run(given: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Run a command, importing what it needs and no more."""
    if given.command == "doctor":
        from jboat.trainers.commands import doctor

        return doctor.main()
    if given.command == "changes":
        from jboat.trainers.commands import changes

        return changes.main()
    if given.command == "callbacks":
        from jboat.trainers.commands import callbacks

        return callbacks.main()
    if given.command == "ops":
        if given.recommend and given.chains:
            parser.error("--recommend and --chains are two lists; ask for one of them")
        if given.recommend:
            from jboat.trainers.commands import recommend

            return recommend.main(markdown=given.markdown)
        from jboat.trainers.commands import ops

        return ops.main(chains=given.chains, markdown=given.markdown)
    if given.command == "completion":
        from jboat.trainers.commands import completion

        return completion.main(given.shell, parser)
    if given.command == "inspect":
        from jboat.trainers.commands import inspect_file

        return inspect_file.main(given.file)
    if given.command == "warmup":
        if given.arguments and given.example is None:
            parser.error("--arguments are an example's command line: name it in front, as in --example NAME")
        return _warm_up(given)
    from jboat.trainers.commands import train

    return (train.train if given.command == "train" else train.validate)(given.config, given.set)


def _warm_up(given: argparse.Namespace) -> int:
    """What there is to run is looked at before Jittor starts, which may compile for minutes."""
    from jboat.trainers.commands import example_program

    program = None if given.example is None else example_program.found(given.example)
    missing = ""
    if given.config is not None and not os.path.exists(given.config):
        missing = f"cannot read {given.config}: there is no such file or folder in {os.getcwd()}"
    elif given.config is None and given.example is not None and program is None:
        missing = example_program.missing(given.example)
    if missing:
        sys.stderr.write(f"error: {missing}\n")
        return 2
    from jboat.trainers.commands import warmup

    return warmup.main(config=given.config, program=program, arguments=given.arguments)


if __name__ == "__main__":
    sys.exit(main())
