"""PEM text (RFC 7468): labelled base64 blocks in one file, other text between them ignored.

Needed beside the libraries' own readers because an identity's files carry labels of ours, `BMS ADMISSION` and
`BMS AUTHORITY BUNDLE`, which OpenSSL skips. Deliberately absent: encrypted blocks and headers inside blocks (RFC 1421).
"""

from __future__ import annotations

import base64
import binascii
import re

__all__ = ["ADMISSION", "BUNDLE", "CERTIFICATE", "PRIVATE_KEY", "dump", "load"]

CERTIFICATE = "CERTIFICATE"
PRIVATE_KEY = "PRIVATE KEY"
ADMISSION = "BMS ADMISSION"
BUNDLE = "BMS AUTHORITY BUNDLE"

_LINE = 64
_BLOCK = re.compile(rb"^-----BEGIN ([A-Z0-9 ]+)-----[ \t\r]*\n(.*?)^-----END \1-----", re.DOTALL | re.MULTILINE)
_BEGIN = re.compile(rb"^-----BEGIN ", re.MULTILINE)


def dump(label: str, content: bytes) -> bytes:
    """One block."""
    text = base64.b64encode(content).decode("ascii")
    lines = [text[start : start + _LINE] for start in range(0, len(text), _LINE)]
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""]).encode("ascii")


def load(text: bytes) -> list[tuple[str, bytes]]:
    """Every block as (label, content), in order; ValueError where one is cut off or is not base64."""
    blocks = []
    for found in _BLOCK.finditer(text):
        label = found[1].decode("ascii")
        try:
            blocks.append((label, base64.b64decode(b"".join(found[2].split()), validate=True)))
        except binascii.Error as error:
            raise ValueError(f"the block {label} is not base64") from error
    if len(_BEGIN.findall(text)) != len(blocks):
        raise ValueError("a PEM block is cut off")
    return blocks
