"""The processes in which Jittor's import compiles, which it keeps as long as the program runs.

A signal to all of a program's processes, as Slurm, ``timeout`` and a terminal send it, ends them too. One of them
then holds a lock that the end of the program waits for, for ever.
"""

from __future__ import annotations

import atexit
from typing import Any


def end(jittor_utils: Any) -> None:
    """End them; Jittor starts others where it needs some again.

    Args:
        jittor_utils: the imported module.
    """
    if jittor_utils.pool_size:
        atexit.unregister(jittor_utils.pool_cleanup)
        jittor_utils.pool_cleanup()
        jittor_utils.pool_size = 0
