"""Named arrays of numbers in an uncompressed ``.npz`` file, which ``numpy.load`` reads too.

The file is a zip archive of ``.npy`` entries. What is read may come from anyone: nothing is unpickled, and every size
is checked before anything is allocated, so that reading takes a small multiple of the file's own size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import io
import math
import os
import stat
from typing import BinaryIO
import zipfile

import numpy as np

KINDS = "biuf"
_ZIP = b"PK\x03\x04"
_SUFFIX = ".npy"


class ArchiveError(ValueError):
    """A file is not a readable archive; the message names it and says why."""


def packed(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The content of a file that holds these arrays, each in an entry of its name."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}{_SUFFIX}", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)
    return buffer.getvalue()


def content_of(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a file that begins as an ``.npz`` does; no more than its beginning is read of another one.

    Raises:
        TypeError: if ``path`` is no path.
        ArchiveError: if it cannot be read, is no plain file, or begins otherwise.
    """
    name = os.fspath(path)
    try:
        mode = os.stat(name).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # of which a read may end only with the memory, or never
            raise OSError("it is a pipe or a device")
        with open(name, "rb") as file:
            if file.read(len(_ZIP)) != _ZIP:
                raise ArchiveError(f"{path} is damaged, or no .npz file: it does not begin as one")
            file.seek(0)
            return file.read()
    except ArchiveError:
        raise
    except (OSError, ValueError) as error:
        raise ArchiveError(f"{path} cannot be read: {error}") from error


def arrays_of(content: bytes, allowed: Callable[[str], bool] = lambda name: True) -> dict[str, np.ndarray]:
    """The arrays of a file's content by name.

    Args:
        content: what :func:`content_of` gave.
        allowed: whether an entry may have this name, the ``.npy`` behind it left out.

    Raises:
        ArchiveError: for an entry that is no array of numbers, or none that may be there.
        Exception: of any kind, for what no zip archive is.
    """
    arrays: dict[str, np.ndarray] = {}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = archive.infolist()
        if sum(entry.file_size for entry in entries) > len(content):
            raise ArchiveError("its entries claim more bytes than the file has")
        for entry in entries:
            name = entry.filename.removesuffix(_SUFFIX)
            if name == entry.filename or not allowed(name):
                raise ArchiveError(f"it has an entry {entry.filename!r}")
            if entry.compress_type != zipfile.ZIP_STORED or name in arrays:
                raise ArchiveError(f"its entry {entry.filename!r} is compressed or repeated")
            with archive.open(entry) as stream:
                arrays[name] = _array(stream, entry.file_size)  # type: ignore[arg-type]
    return arrays


def _array(stream: BinaryIO, size: int) -> np.ndarray:
    """One ``.npy`` entry, its header checked against its size before anything is allocated."""
    data = io.BytesIO(stream.read(size))
    major, _ = np.lib.format.read_magic(data)
    if major != 1:
        raise ArchiveError(f"it has an entry of .npy version {major}")
    shape, _, dtype = np.lib.format.read_array_header_1_0(data)
    if dtype.kind not in KINDS:
        raise ArchiveError(f"it has an entry of dtype {dtype}")
    if any(n < 0 for n in shape) or math.prod(shape) * dtype.itemsize != size - data.tell():
        raise ArchiveError(f"it has an entry of shape {shape} in {size} bytes")
    data.seek(0)
    return np.lib.format.read_array(data, allow_pickle=False)
