"""Files as an attacker would make them: archives with right checksums and wrong contents."""

import hashlib
import io
import json
import os
import pickle
import struct
import zipfile

import numpy as np


def forged(entries, compression=zipfile.ZIP_STORED):
    """A zip with any entries and a right digest, as an attacker would make it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, data in entries:
            file.writestr(name, data)
    content = buffer.getvalue()
    digest = hashlib.sha256(content).hexdigest().encode()
    return content[:-2] + struct.pack("<H", 64) + digest


def npy(array):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asarray(array), allow_pickle=True)
    return buffer.getvalue()


def npy_header(shape, descr="'<f4'"):
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode()


def document(**fields):
    return npy(np.frombuffer(json.dumps({"format": 1, "tree": {}, **fields}).encode(), np.uint8))


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("executed",)


HOSTILE = {
    "pickled objects": [("document.npy", document()), ("array_0.npy", npy(np.array([Bomb()], dtype=object)))],
    "a pickle": [("document.npy", pickle.dumps(Bomb()))],
    "an absurd shape": [("document.npy", document()), ("array_0.npy", npy_header("(1000000, 1000000, 1000)"))],
    "a negative shape": [("document.npy", document()), ("array_0.npy", npy_header("(-1, -4)") + b"0" * 16)],
    "a path": [("document.npy", document()), ("../../etc/passwd", b"x")],
    "an absolute path": [("document.npy", document()), ("/array_0.npy", npy([1.0]))],
    "a repeated entry": [("document.npy", document()), ("array_0.npy", npy([1.0])), ("array_0.npy", npy([2.0]))],
    "no document": [("array_0.npy", npy([1.0]))],
    "a missing array": [("document.npy", document(tree={"__array__": 7}))],
    "no tree": [("document.npy", npy(np.frombuffer(b'{"format": 1}', np.uint8)))],
    "a list": [("document.npy", npy(np.frombuffer(b"[1]", np.uint8)))],
    "deep nesting": [("document.npy", npy(np.frombuffer(b"[" * 10**6, np.uint8)))],
    "code in a header": [("document.npy", npy_header("(1,)", "__import__('os').mkdir('executed')") + b"0000")],
}
