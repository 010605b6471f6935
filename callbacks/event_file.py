"""A file of events as TensorBoard reads them; importing this module imports tensorboardX."""

from __future__ import annotations

from collections.abc import Mapping
import os
from pathlib import Path
import time

import numpy as np
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary


class EventFile:
    """An open file.

    Args:
        folder: where it is made, under a name that sorts behind those of earlier files.

    Attributes:
        path: the file.
    """

    def __init__(self, folder: Path) -> None:
        suffix = f".{time.time_ns()}.{os.getpid()}"  # TensorBoard reads files in the order of their names
        self._writer = EventsWriter(str(folder / "events"), suffix)
        self.path = Path(self._writer._file_name)

    def start_session(self, step: int) -> None:
        """Tell TensorBoard to forget what other files say from this step on."""
        session = SessionLog(status=SessionLog.START)
        self._writer.write_event(Event(wall_time=time.time(), step=step, session_log=session))

    def numbers(self, when: float, step: int, numbers: Mapping[str, float]) -> None:
        """Write numbers by their tags, of a moment in seconds since 1970."""
        self._write(when, step, Summary(value=[Summary.Value(tag=t, simple_value=v) for t, v in numbers.items()]))

    def text(self, step: int, tag: str, text: str) -> None:
        """Write a text in Markdown."""
        self._write(time.time(), step, summary.text(tag, text))

    def histogram(self, step: int, tag: str, values: np.ndarray) -> None:
        """Write the histogram of an array's entries."""
        self._write(time.time(), step, summary.histogram(tag, values, bins="auto"))

    def flush(self) -> None:
        """Bring what was written to the file."""
        self._writer.flush()

    def close(self) -> None:
        """Close it."""
        self._writer.close()

    def _write(self, when: float, step: int, values: Summary) -> None:
        self._writer.write_event(Event(wall_time=when, step=step, summary=values))
