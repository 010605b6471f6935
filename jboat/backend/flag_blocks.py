"""Jittor's flags inside a block, which may overlap with others of other threads.

Flags are the process's, so that all threads see them. But where ``jt.no_grad()`` begins in one thread, then in another,
and ends in the first before it ends in the second, it leaves the flag set for good: no graph is built from then on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
import threading
from typing import Any

import jittor as jt


@dataclass(eq=False)
class _Block:
    before: Any


_blocks: dict[str, list[_Block]] = {}
"""Those that are open, by the name of the flag, in the order in which they began."""

_lock = threading.Lock()


@contextmanager
def flag(name: str, value: int) -> Iterator[None]:
    """Let one of Jittor's flags have a value inside the block.

    At its end the flag is as it was at its beginning, or stays for the blocks that still run, after which it is as it
    was when the first of them began.

    Args:
        name: an attribute of ``jt.flags``.
        value: what it is set to.
    """
    with _lock:
        block = _Block(getattr(jt.flags, name))
        _blocks.setdefault(name, []).append(block)
        setattr(jt.flags, name, value)
    try:
        yield
    finally:
        with _lock:
            open_blocks = _blocks[name]
            later = open_blocks[open_blocks.index(block) + 1 :]
            if later:
                later[0].before = block.before
            else:
                setattr(jt.flags, name, block.before)
            open_blocks.remove(block)
