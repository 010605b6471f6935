"""``python -m jboat completion bash`` or ``zsh``: a script by which the shell completes the commands."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

SHELLS = ("bash", "zsh")
_FOR_ZSH = "autoload -U +X bashcompinit && bashcompinit\n"
_SCRIPT = """\
# made by `jboat completion {shell}`; to use it: source <(jboat completion {shell})
{preface}_jboat() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" command="" words="" entry
    local i
    for ((i = 1; i < COMP_CWORD; i++)); do
        case "${{COMP_WORDS[i]}}" in
            {names}) command="${{COMP_WORDS[i]}}"; break ;;
        esac
    done
    case "$command" in
        "") words="{first}" ;;
{cases}
    esac
    COMPREPLY=($(compgen -W "$words" -- "$word"))
    case "$command" in
        {with_files})
            while IFS= read -r entry; do COMPREPLY+=("$entry"); done < <(compgen -f -- "$word") ;;
    esac
}}
complete -o filenames -F _jboat jboat
"""


def main(shell: str, parser: argparse.ArgumentParser) -> int:
    """Print the script; returns 0.

    Args:
        shell: ``"bash"`` or ``"zsh"``.
        parser: of the commands.
    """
    print(script(shell, parser), end="")
    return 0


def script(shell: str, parser: argparse.ArgumentParser) -> str:
    """The script for a shell; zsh runs that of bash."""
    commands = _commands(parser)
    cases = [f'        {name}) words="{" ".join(_words(command))}" ;;' for name, command in commands.items()]
    return _SCRIPT.format(
        shell=shell,
        preface=_FOR_ZSH if shell == "zsh" else "",
        names="|".join(commands),
        first=" ".join([*commands, *_options(parser)]),
        cases="\n".join(cases),
        with_files="|".join(name for name, command in commands.items() if _takes_files(command)),
    )


def _commands(parser: argparse.ArgumentParser) -> Mapping[str, argparse.ArgumentParser]:
    found = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    choices: Mapping[str, argparse.ArgumentParser] = found.choices
    return choices


def _options(parser: argparse.ArgumentParser) -> Sequence[str]:
    return [option for action in parser._actions for option in action.option_strings if option.startswith("--")]


def _words(parser: argparse.ArgumentParser) -> Sequence[str]:
    """Options, and what an argument may be where that is a choice."""
    choices = [str(choice) for action in parser._actions for choice in action.choices or ()]
    return [*choices, *_options(parser)]


def _takes_files(parser: argparse.ArgumentParser) -> bool:
    return any(not action.option_strings and not action.choices for action in parser._actions)
