"""Histograms of whole numbers: a line of blocks for the terminal, and a picture as PNG.

A picture is an array of grey values, written as PNG (ISO/IEC 15948: signature, IHDR, one zlib stream of rows with
filter 0, IEND). Its letters are 3 by 5 dots, drawn here, so that no plotting library is needed for one kind of picture.
The dots of a glyph are 15 bits in octal, a digit a row. Absent: colour, other charts, lower-case letters.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Sequence
from typing import Any

__all__ = ["bins", "picture", "sparkline"]

BINS = 24

_BLOCKS = " ▁▂▃▄▅▆▇█"
_WIDTH, _HEIGHT = 720, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 700, 56, 340
_PAPER, _BAR, _MARK, _INK = 255, 170, 90, 0
_DOT = 3
_GLYPHS = dict(
    zip(
        "0123456789ABDEHIKLMNOPRSTW[]:,./-",
        [
            *(0o75557, 0o26227, 0o71747, 0o71717, 0o55711, 0o74717, 0o74757, 0o71244, 0o75757, 0o75717, 0o25755),
            *(0o65656, 0o65556, 0o74647, 0o55755, 0o72227, 0o55655, 0o44447, 0o57755, 0o65555, 0o75557, 0o75744),
            *(0o65655, 0o74717, 0o72222, 0o55775, 0o64446, 0o31113, 0o02020, 0o00024, 0o00002, 0o11244, 0o00700),
        ],
        strict=True,
    )
)


def bins(values: Sequence[int]) -> tuple[int, int, list[int]]:
    """(first, width, counts) of at most 24 bins: bin i has what is at least first + i * width and below the next."""
    first, last = min(values), max(values)
    width = max(1, math.ceil((last - first + 1) / BINS))
    counts = [0] * math.ceil((last - first + 1) / width)
    for value in values:
        counts[(value - first) // width] += 1
    return first, width, counts


def sparkline(values: Sequence[int]) -> str:
    """The bins as blocks; a bin with anything in it has at least the lowest."""
    _, _, counts = bins(values)
    return "".join(_BLOCKS[math.ceil(count / max(counts) * (len(_BLOCKS) - 1))] for count in counts)


def picture(values: Sequence[int], title: str, across: str, up: str, mark: float) -> bytes:
    """The bins as a PNG with a title and two named axes, and a line where `mark` is."""
    import numpy as np

    first, width, counts = bins(values)
    tall = max(counts)
    canvas = np.full((_HEIGHT, _WIDTH), _PAPER, dtype=np.uint8)
    per_bin = (_RIGHT - _LEFT) / len(counts)
    for number, count in enumerate(counts):
        left, right = round(_LEFT + number * per_bin), round(_LEFT + (number + 1) * per_bin)
        canvas[round(_BOTTOM - count / tall * (_BOTTOM - _TOP)) : _BOTTOM, left : max(left + 1, right - 1)] = _BAR
    x = round(_LEFT + (mark - first) / width * per_bin)
    if _LEFT <= x < _RIGHT:
        canvas[_TOP:_BOTTOM:2, x : x + 2] = _MARK
    canvas[_BOTTOM : _BOTTOM + 2, _LEFT:_RIGHT] = canvas[_TOP:_BOTTOM, _LEFT - 2 : _LEFT] = _INK
    for part in range(5):
        at = part * len(counts) / 4
        x, y = round(_LEFT + at * per_bin), round(_BOTTOM - part / 4 * (_BOTTOM - _TOP))
        canvas[_BOTTOM : _BOTTOM + 6, x - 1 : x + 1] = canvas[y - 1 : y + 1, _LEFT - 6 : _LEFT] = _INK
        _write(canvas, f"{first + at * width:.0f}", x, _BOTTOM + 10, 0.5)
        _write(canvas, f"{part / 4 * tall:.0f}", _LEFT - 10, y - 7, 1.0)
    _write(canvas, title, _WIDTH // 2, 8, 0.5)
    _write(canvas, across, (_LEFT + _RIGHT) // 2, _BOTTOM + 36, 0.5)
    _write(canvas, up, _LEFT, 32, 0.5)
    return _png(canvas)


def _write(canvas: Any, text: str, x: int, y: int, anchor: float) -> None:
    """Put text on the canvas, that share of it left of x. What there is no glyph for is blank."""
    x -= round(anchor * 4 * _DOT * len(text))
    for place, glyph in enumerate(text.upper()):
        dots = _GLYPHS.get(glyph, 0)
        for bit in range(15):
            if dots >> (14 - bit) & 1:
                left, top = x + (place * 4 + bit % 3) * _DOT, y + bit // 3 * _DOT
                canvas[top : top + _DOT, left : left + _DOT] = _INK


def _png(canvas: Any) -> bytes:
    height, width = canvas.shape

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row.tobytes() for row in canvas)
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)  # 8 bits of grey, not interlaced
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body
