"""One PEM file of an identity or an authority, read from disk, with errors that name the setting and the file.

Everything wrong with such a file is a ConfigError: its owner put it there, and must do something about it. No error
quotes what stands in the file, since that may be a key. Reading only: what is written is put together in `authority`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, x25519

from ..errors import ConfigError, RemoteProtocolError
from ..wire.codec import decode_untrusted
from . import disk, pem
from .bundle import Bundle
from .keys import PrivateKey

__all__ = ["PemFile"]


class PemFile:
    """The labelled blocks of one file; `field` is the setting that names it."""

    def __init__(self, path: Path, field: str, content: bytes) -> None:
        self.path = path
        self.field = field
        self.content = content
        try:
            self._blocks = pem.load(content)
        except ValueError as error:
            raise self.wrong(str(error)) from error

    @classmethod
    def read(cls, path: Path, field: str, *, private: bool = False) -> PemFile:
        """Read a file; ConfigError if it cannot be, or is `private` and others than its owner may read it."""
        return cls(path, field, disk.read_file(path, field, private=private))

    def wrong(self, why: str) -> ConfigError:
        """The error to raise about this file."""
        return ConfigError(self.field, str(self.path), f"{self.path}: {why}")

    def all(self, label: str) -> list[bytes]:
        """The contents of all blocks of a label, in order."""
        return [content for found, content in self._blocks if found == label]

    def one(self, label: str) -> bytes:
        """The content of the only block of a label."""
        found = self.all(label)
        if len(found) != 1:
            raise self.wrong(f"it should hold one block {label!r} and has {len(found)}")
        return found[0]

    def signed(self, label: str) -> Any:
        """The decoded content of the only block of a label."""
        try:
            return decode_untrusted(self.one(label))
        except RemoteProtocolError as error:
            raise self.wrong(f"the block {label!r} is damaged") from error

    def bundle(self) -> Bundle:
        """The authority bundle in it."""
        signed = self.signed(pem.BUNDLE)
        try:
            return Bundle.parse_untrusted(signed)
        except RemoteProtocolError as error:
            raise self.wrong(str(error)) from error

    def private_keys(self) -> list[PrivateKey]:
        """All its private keys, in order."""
        return [self._private_key(der) for der in self.all(pem.PRIVATE_KEY)]

    def _private_key(self, der: bytes) -> PrivateKey:
        try:
            key = serialization.load_der_private_key(der, None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise self.wrong("a private key in it is damaged") from error
        if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1):
            return key
        if isinstance(key, (ed25519.Ed25519PrivateKey, x25519.X25519PrivateKey)):
            return key
        raise self.wrong("a private key in it is none of P-256, Ed25519 and X25519")
