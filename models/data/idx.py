"""The IDX files in which MNIST and its relatives are published."""

import gzip
import math
import zlib

import numpy as np

from ..errors import InputError, require

__all__ = ["read_idx"]

GZIP = b"\x1f\x8b"
BYTES = b"\x00\x00\x08"  # then one byte, the number of axes


def read_idx(path):
    """The array of bytes in an IDX file, compressed by gzip or not.

    The format is four bytes (two zeros, the type, the number of axes), the length of each axis as
    a big-endian 32-bit integer, then the numbers, last axis first. MNIST has bytes only.
    """
    content = _content(path)

    def check(ok, condition, got):
        require(ok, "read_idx", str(path), condition, got)

    check(len(content) >= 4, "begin with 4 bytes of magic", f"{len(content)} bytes")
    condition = f"begin with {BYTES.hex()}, an IDX file of bytes"
    check(content[:3] == BYTES, condition, content[:3].hex())
    start = 4 + 4 * content[3]
    check(len(content) >= start, f"have a header of {start} bytes", f"{len(content)} bytes")
    shape = tuple(np.frombuffer(content[4:start], ">u4").tolist())
    size = math.prod(shape)
    condition = f"hold {size} bytes after its header, for {shape}"
    check(len(content) == start + size, condition, len(content) - start)
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _content(path):
    """The bytes of a file, decompressed where they are compressed, whatever the file's name."""
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if content.startswith(GZIP) else content
    except (OSError, EOFError, zlib.error) as error:
        got = f"{str(path)!r} ({error})"
        raise InputError(f"read_idx: the file must be readable; got {got}") from error
