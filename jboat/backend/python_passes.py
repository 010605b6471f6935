"""Passes in Python over a kernel's source, run when the operation is made instead of when it is compiled.

The source of ``jt.code`` may ask for one: ``@python.jittor.auto_parallel(1)`` before a function, as in ``jt.isnan``.
Jittor runs it in the thread that compiles, which is none of Python's and does not hold its lock: Python 3.12 ends the
process there, and older ones only do not by luck. Importing this module lets ``jt.code`` run them, for
functions at the beginning of ``cpu_src`` and ``cuda_src`` and in headers, where Jittor's own sources have them.
"""

from __future__ import annotations

from collections.abc import Callable
import functools
import re
from typing import Any

import jittor as jt

_PASS = re.compile(r"\s*(__inline_static__\s*)?@python\.([\w.]+)\(")


def _running_passes(code: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(code)
    def running_passes(*args: Any, **kwargs: Any) -> Any:
        for device in ("cpu", "cuda"):
            header, source = f"{device}_header", f"{device}_src"
            if "@python." in kwargs.get(source, "") or "@python." in kwargs.get(header, ""):
                functions, rest = _functions_first(kwargs.get(source, ""))
                before, after = _expanded(kwargs.get(header, "")), _expanded(functions)
                kwargs |= {source: rest, header: f"{before}\nnamespace jittor {{\n{after}\n}}\n"}
        return code(*args, **kwargs)

    return running_passes


def _functions_first(source: str) -> tuple[str, str]:
    """The functions at a source's beginning that a pass is asked for, which Jittor moves into the header, and the rest.

    What a pass makes of a function is several, of which Jittor would move the first alone.
    """
    end = 0
    while found := _PASS.match(source, end):
        end = _end_of_function(source, source.index(")", found.end()) + 1)
    return source[:end], source[end:]


def _expanded(source: str) -> str:
    while found := _PASS.search(source):
        arguments_end = source.index(")", found.end())
        end = _end_of_function(source, arguments_end + 1)
        arguments = [argument for argument in source[found.end() : arguments_end].split(",") if argument]
        function = {"src": source[arguments_end + 1 : end]}
        written = jt.python_pass_wrapper(found[2], tuple(arguments), function)
        source = f"{source[: found.start()]}\n{found[1] or ''}{written}{source[end:]}"
    return source


def _end_of_function(source: str, start: int) -> int:
    """Where the function after ``start`` ends: behind its closing brace, or the semicolon of a declaration."""
    depth = 0
    for place in range(start, len(source)):
        depth += {"{": 1, "}": -1}.get(source[place], 0)
        if depth == 0 and source[place] in "};":
            return place + 1
    raise ValueError(f"braces are not matched in the source of a kernel: {source}")


jt.code = _running_passes(jt.code)
