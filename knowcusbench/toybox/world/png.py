"""PNG files whose bytes depend on the pixels alone.

Library encoders compress, and the compressed bytes change with the compressor's version. Here the pixels are stored
uncompressed: the pictures are small, and the benchmark's digest is one of bytes.
"""

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

_COLOUR_TYPES = {1: 0, 3: 2}  # Grey and RGB, by their number of channels.
_STORED_BLOCK_LIMIT = 0xFFFF


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """Encode 8-bit pixels as a PNG file, shape (height, width, 1) for grey or (height, width, 3) for RGB.

    All rows have to fit into one stored block of the deflate format: (1 + width * channels) * height < 65,536.
    """
    height, width, channels = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOUR_TYPES[channels], 0, 0, 0)
    no_filter = np.zeros((height, 1), dtype=np.uint8)
    rows = np.hstack([no_filter, pixels.reshape(height, -1)]).tobytes()
    chunks = (_chunk(b"IHDR", header), _chunk(b"IDAT", _store(rows)), _chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _store(data: bytes) -> bytes:
    """Return a zlib stream (RFC 1950) of one final, stored deflate block (RFC 1951, 3.2.4)."""
    if len(data) > _STORED_BLOCK_LIMIT:
        raise ValueError(f"{len(data)} bytes don't fit into one stored block")
    block = struct.pack("<BHH", 1, len(data), len(data) ^ 0xFFFF) + data
    return b"\x78\x01" + block + struct.pack(">I", zlib.adler32(data))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
