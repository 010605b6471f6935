"""A tree of arrays and JSON values in one ``.npz`` file that can be read without trusting it.

The file is an uncompressed zip archive of ``.npy`` entries: ``document`` holds the tree as JSON, in which
``{"__array__": i}`` stands for the entry ``array_i``, each of which is named once. The archive's comment is the SHA-256
of the rest. ``numpy.load`` reads the file too; :func:`read` first checks the digest and every size, so that neither a
damaged nor a hostile file executes anything, or allocates more than a small multiple of its own size.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
from typing import Any

from jboat.trainers.persistence import npz_file
from jboat.trainers.persistence.atomic_file import atomic_file
from jboat.trainers.persistence.npz_file import KINDS, ArchiveError
import numpy as np

FORMAT_VERSION = 1
_ENTRY = re.compile(r"document|array_(0|[1-9][0-9]{0,8})")
_DIGEST_SIZE = 64
_DEPTH = 100
_ARRAY = "__array__"


def write(path: str | os.PathLike[str], tree: Any) -> None:
    """Write a tree, whole or not at all.

    Args:
        path: the file.
        tree: dicts with string keys, lists, strings, numbers, None and numpy arrays of numbers.

    Raises:
        TypeError: for anything else in the tree.
        OSError: if the file cannot be written; one that was there before is left as it was.
    """
    arrays: list[np.ndarray] = []
    document = json.dumps({"format": FORMAT_VERSION, "tree": _pack(tree, arrays)}).encode()
    entries = {"document": np.frombuffer(document, np.uint8)}
    entries.update((f"array_{i}", array) for i, array in enumerate(arrays))
    content = npz_file.packed(entries)
    with atomic_file(path, "wb") as file:
        file.write(content[:-2] + struct.pack("<H", _DIGEST_SIZE) + hashlib.sha256(content).hexdigest().encode())


def read(path: str | os.PathLike[str]) -> Any:
    """Read what :func:`write` wrote.

    Raises:
        TypeError: if ``path`` is no path.
        ArchiveError: if the file is missing, damaged, of a newer format, or holds anything but numbers and JSON.
    """
    return unpacked(path, npz_file.content_of(path))


def is_checkpoint(content: bytes) -> bool:
    """Whether a file begins as :func:`write` lets one begin."""
    return b"document.npy" in content[:100]


def unpacked(path: str | os.PathLike[str], content: bytes) -> Any:
    """The tree of a file's content; as :func:`read`, which see."""
    _require_digest(path, content)
    try:
        arrays = npz_file.arrays_of(content, lambda name: bool(_ENTRY.fullmatch(name)))
        document = _document(arrays)
    except Exception as error:  # whatever a parser makes of a stranger's bytes
        raise ArchiveError(f"{path} is not a jboat checkpoint: {error}") from error
    version = document.get("format")
    if version != FORMAT_VERSION:
        raise ArchiveError(
            f"{path} has checkpoint format {version!r}; this version of jboat reads format {FORMAT_VERSION}. "
            "A newer jboat wrote it: upgrade to read it."
        )
    if "tree" not in document:
        raise ArchiveError(f"{path} is not a jboat checkpoint: its document has no tree")
    try:
        return _unpack(document["tree"], arrays)
    except ArchiveError as error:
        raise ArchiveError(f"{path} is not a jboat checkpoint: {error}") from error


def _pack(value: Any, arrays: list[np.ndarray]) -> Any:
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in KINDS:
            raise TypeError(f"cannot store an array of dtype {value.dtype}")
        arrays.append(np.ascontiguousarray(value) if value.ndim else value)
        return {_ARRAY: len(arrays) - 1}
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str) or key == _ARRAY:
                raise TypeError(f"cannot store a dict with the key {key!r}")
        return {key: _pack(entry, arrays) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_pack(entry, arrays) for entry in value]
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"cannot store a {type(value).__name__} in a checkpoint: {value!r}")


def _unpack(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    if isinstance(value, dict):
        if _ARRAY in value:
            name = f"array_{value[_ARRAY]}"
            if len(value) > 1 or type(value[_ARRAY]) is not int or name not in arrays:
                raise ArchiveError("its document names an array that is missing, or names one twice")
            return arrays.pop(name)  # named once, so that a small file cannot stand for large contents
        return {key: _unpack(entry, arrays) for key, entry in value.items()}
    if isinstance(value, list):
        return [_unpack(entry, arrays) for entry in value]
    return value


def _require_digest(path: str | os.PathLike[str], content: bytes) -> None:
    body, size, comment = (
        content[: -_DIGEST_SIZE - 2],
        content[-_DIGEST_SIZE - 2 : -_DIGEST_SIZE],
        content[-_DIGEST_SIZE:],
    )
    digest = hashlib.sha256(body + b"\0\0").hexdigest().encode()
    if size != struct.pack("<H", _DIGEST_SIZE) or digest != comment:
        if not is_checkpoint(content) and _holds_arrays(content):
            raise ArchiveError(
                f"{path} is no jboat checkpoint: it holds arrays alone, as save_weights writes them; "
                "jboat.load_weights(path, module) gives them to a module"
            )
        raise ArchiveError(f"{path} is damaged, or no jboat checkpoint: its checksum does not fit its content")


def _document(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    content = arrays["document"].tobytes()
    _require_shallow(content)
    document = json.loads(content.decode())
    if not isinstance(document, dict):
        raise ArchiveError("its document is no object")
    return document


def _require_shallow(content: bytes) -> None:
    """Refuse many levels, which the stack does not hold: Jittor raises Python's own limit to a million."""
    bare = np.frombuffer(content.replace(b"\\\\", b"").replace(b'\\"', b""), np.uint8)
    outside = (bare == ord('"')).cumsum(dtype=np.int32) % 2 == 0
    opens = ((bare == ord("[")) | (bare == ord("{"))) & outside
    closes = ((bare == ord("]")) | (bare == ord("}"))) & outside
    if (opens.astype(np.int8) - closes).cumsum(dtype=np.int32).max(initial=0) > _DEPTH:
        raise ArchiveError(f"its document has more than {_DEPTH} levels")


def _holds_arrays(content: bytes) -> bool:
    try:
        npz_file.arrays_of(content)
    except Exception:  # whatever a parser makes of a stranger's bytes
        return False
    return True
