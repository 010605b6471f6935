"""A file of events as TensorBoard reads them; importing this module imports tensorboardX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
        self._end: Summary | None = None

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

    def charts(self, charts: Mapping[str, Mapping[str, Sequence[str]]]) -> None:
        """Say which tags, as regular expressions, share a chart, by group and title."""
        layout = {
            group: {title: ["Multiline", list(tags)] for title, tags in of.items()} for group, of in charts.items()
        }
        self._write(time.time(), 0, summary.custom_scalars(layout))

    def hyperparameters(self, values: Mapping[str, bool | float | str], tags: Sequence[str]) -> None:
        """Write an entry of the table of hyperparameters, whose columns are these values and the last of these tags."""
        experiment, start, self._end = summary.hparams(dict(values), dict.fromkeys(tags, 0.0))
        self._write(time.time(), 0, experiment)
        self._write(time.time(), 0, start)

    def end_hyperparameters(self) -> None:
        """Say that the entry's run has ended."""
        if self._end is not None:
            self._write(time.time(), 0, self._end)

    def flush(self) -> None:
        """Bring what was written to the file."""
        self._writer.flush()

    def close(self) -> None:
        """Close it."""
        self._writer.close()

    def _write(self, when: float, step: int, values: Summary) -> None:
        self._writer.write_event(Event(wall_time=when, step=step, summary=values))
