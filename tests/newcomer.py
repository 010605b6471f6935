"""Follow the README, Getting started and the tutorial word by word, as a newcomer does; ``make newcomer``.

Every command that a page names is run in the order of the pages, its programs after what stands before them, and the
output that a page shows is compared with what came. All of it happens in a fresh copy of the checkout, with an empty
home and an environment that the pages' own commands make: some 20 minutes, most of which Jittor compiles.

With ``--at-hand`` the programs alone run, in an empty folder, with the Python that runs this.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
import os
from pathlib import Path
import re
import shutil
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/getting-started.md", "docs/tutorial.md")
NOT_RUN = {
    "make test": "all the tests, and this is one",
    "make PYTHON=python3.12 demo": "as make demo, with a Python that may not be there",
    "apt-get install openmpi-bin libopenmpi-dev": "changes the machine",
    "pip install '.[cuda13]'": "some gigabytes, for a GPU",
    "git clone <this repository> && cd jboat": "the copy of the checkout stands for it",
    "python3 -m venv .venv && . .venv/bin/activate": "make demo has made it, and all else runs in it",
}
"""Commands of the pages that a newcomer's run leaves out, and why."""
_COMMAND = re.compile(r"(?:make|pip|git|python3?|jboat|mpirun|apt-get) \S")
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", flags=re.M | re.S)
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


class Step(NamedTuple):
    """What a page wants of its reader.

    Attributes:
        kind: "command", "program" (a part of the page's) or "output" (of the last command before it).
        text: the command, the program or the output.
    """

    kind: str
    text: str


def steps(page: str) -> Iterator[Step]:
    """A page's steps in their order; a command in running text counts like one in a block."""
    end = 0
    for block in _BLOCK.finditer(page):
        yield from _named(page[end : block.start()])
        end = block.end()
        language, text = block.groups()
        lines = [re.sub(r"\s+#.*", "", line).strip() for line in text.splitlines()]
        if language == "python":
            yield Step("program", text)
        elif language == "sh" or (not language and all(_COMMAND.match(line) for line in lines)):
            yield from (Step("command", line) for line in lines if line)
        elif not language:
            yield Step("output", text)
    yield from _named(page[end:])


def _named(prose: str) -> Iterator[Step]:
    for span in re.findall(r"`([^`]+)`", prose):
        if _COMMAND.match(span):
            yield Step("command", " ".join(span.split()))


def differences(shown: str, printed: str) -> list[str]:
    """The lines of ``shown`` that ``printed`` has not, one after the other; numbers may differ by 2%."""
    lines, missing = iter(printed.splitlines()), []
    for line in filter(None, map(str.strip, shown.splitlines())):
        if not any(_alike(line, other.strip()) for other in lines):
            missing.append(line)
    return missing


def _alike(a: str, b: str) -> bool:
    if _NUMBER.sub("#", a) != _NUMBER.sub("#", b):
        return False
    pairs = zip(map(float, _NUMBER.findall(a)), map(float, _NUMBER.findall(b)), strict=True)
    return all(abs(x - y) <= 0.02 * abs(x) for x, y in pairs)


def follow(page: Path, run: Callable[[str], str], run_program: Callable[[str], str], done: dict[str, str]) -> list[str]:
    """Do what a page says; returns what did not come out as it says.

    Args:
        page: the file.
        run: runs a command, and returns what it prints; raises ``subprocess.CalledProcessError`` where it fails.
        run_program: the same for a program.
        done: what commands have printed, those of earlier pages among them, which are not run again.
    """
    stumbles, last, program = [], None, ""
    found = list(steps(page.read_text()))
    for number, step in enumerate(found):
        try:
            if step.kind == "program":
                program += step.text
                if not any(later.kind == "program" for later in found[number + 1 :]):
                    run_program(program)
            elif step.kind == "command":
                last = step.text
                if last not in done and last not in NOT_RUN:
                    done[last] = run(last)
            elif last in done:
                stumbles += [
                    f"{page.name}: {last} does not print {line!r}" for line in differences(step.text, done[last])
                ]
        except subprocess.CalledProcessError as error:
            said = "\n".join(str(error.output).splitlines()[-20:])
            name = last if step.kind == "command" else f"the program of {page.name}"
            stumbles.append(f"{page.name}: {name} ended with status {error.returncode}:\n{said}")
    return stumbles


def follow_afresh(scratch: Path) -> list[str]:
    """All pages in a fresh copy of the checkout, with an empty home."""
    checkout, work, home = scratch / "jboat", scratch / "work", scratch / "home"
    for folder in (work, home):
        folder.mkdir(parents=True)
    listing = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    for name in filter(lambda n: os.path.lexists(ROOT / n), listing.stdout.splitlines()):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, checkout / name, follow_symlinks=False)
    of_this = {str(Path(sys.prefix) / "bin")}
    path = [str(checkout / ".venv" / "bin"), *(p for p in os.environ["PATH"].split(os.pathsep) if p not in of_this)]
    environment = {"HOME": str(home), "PATH": os.pathsep.join(path), "MPLBACKEND": "Agg"}
    kept = re.compile(
        "LANG|LC_.*|TMPDIR|OMP_NUM_THREADS|PIP_.*|.*_proxy|SSL_.*", flags=re.I
    )  # where packages come from
    environment |= {name: value for name, value in os.environ.items() if kept.fullmatch(name)}

    def shell(command: str, folder: Path) -> str:
        print(f"$ {command}", flush=True)
        begun = time.perf_counter()
        ran = subprocess.run(
            ["bash", "-c", command],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        print(f"{ran.stdout.rstrip()}\n[{time.perf_counter() - begun:.0f} s, status {ran.returncode}]", flush=True)
        ran.check_returncode()
        return ran.stdout

    def program(text: str) -> str:
        (work / "program.py").write_text(text)
        return shell("python program.py", work)

    done: dict[str, str] = {}
    return [s for name in PAGES for s in follow(checkout / name, lambda c: shell(c, checkout), program, done)]


def run_at_hand(name: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a page's program in a folder, with the Python that runs this."""
    text = "".join(step.text for step in steps((ROOT / name).read_text()) if step.kind == "program")
    (folder / "program.py").write_text(text)
    return subprocess.run(
        [sys.executable, "program.py"],
        cwd=folder,
        env={**os.environ, "MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
        check=False,
    )


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--at-hand", action="store_true", help="the programs alone, with this Python")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="newcomer") as scratch:
        if given.at_hand:
            ran = {name: run_at_hand(name, Path(tempfile.mkdtemp(dir=scratch))) for name in PAGES}
            stumbles = [f"{name}:\n{r.stderr}" for name, r in ran.items() if r.returncode]
        else:
            stumbles = follow_afresh(Path(scratch))
    print("\n".join(stumbles) or f"no stumble in {', '.join(PAGES)}")
    return int(bool(stumbles))


if __name__ == "__main__":
    sys.exit(main())
