"""The keys of a node and of an authority: Ed25519 to sign, X25519 for boxes, ECDSA P-256 for TLS.

The public half of the node key is the NodeId (RFC 8032), so a signature needs no certificate to be believed. A
signature always covers `domain || 0x00 || body`: one made for one kind of object can never be taken for another's
(formats.md, "Conventions"). Verification is libsodium's: S below L, canonical A and R, neither of small order.

Keys are made from injected random bytes, so that a simulated mesh has the same keys in every run. ECDSA is
deterministic (RFC 6979) where the library can do it: no signature depends on the quality of chance.

A secret half never appears in `repr`. Deliberately absent: passphrases on key files (file modes guard them), and the
use of box keys (see `pairwise`).
"""

from __future__ import annotations

from collections.abc import Callable

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, x25519
from nacl import bindings
from nacl.exceptions import BadSignatureError

from ..values import NodeId

__all__ = [
    "ECDSA_DETERMINISTIC",
    "P256_SHA256",
    "BoxKey",
    "NodeKey",
    "PrivateKey",
    "TlsKey",
    "TlsPublicKey",
    "make_tls_key",
    "private_pem",
    "verify",
]

SEED_BYTES = 32
SIGNATURE_BYTES = 64
_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551

TlsKey = ec.EllipticCurvePrivateKey
TlsPublicKey = ec.EllipticCurvePublicKey
PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | x25519.X25519PrivateKey


def _p256_sha256() -> tuple[ec.ECDSA, bool]:
    """ECDSA with SHA-256, by RFC 6979 where the OpenSSL below has it (3.2 and later), and whether it has."""
    try:
        return ec.ECDSA(hashes.SHA256(), deterministic_signing=True), True
    except UnsupportedAlgorithm:
        return ec.ECDSA(hashes.SHA256()), False


P256_SHA256, ECDSA_DETERMINISTIC = _p256_sha256()


def _signing_input(domain: str, body: bytes) -> bytes:
    return domain.encode("ascii") + b"\x00" + body


def verify(node_id_raw: bytes, domain: str, body: bytes, signature: bytes) -> bool:
    """Whether `signature` is that of the 32-byte Ed25519 key over `domain || 0x00 || body`; any bytes may be passed."""
    if len(signature) != SIGNATURE_BYTES or len(node_id_raw) != 32:
        return False
    try:
        bindings.crypto_sign_open(signature + _signing_input(domain, body), node_id_raw)
    except BadSignatureError:
        return False
    return True


class NodeKey:
    """A long-lived Ed25519 key: a node's, or (for admissions) an issuer's."""

    __slots__ = ("_secret", "node_id")

    def __init__(self, seed: bytes) -> None:
        public, self._secret = bindings.crypto_sign_seed_keypair(seed)
        self.node_id = NodeId.of(public)

    @classmethod
    def generate(cls, token_bytes: Callable[[int], bytes]) -> NodeKey:
        """A new key from 32 secret random bytes."""
        return cls(token_bytes(SEED_BYTES))

    @classmethod
    def from_seed(cls, seed: bytes) -> NodeKey:
        """The key of a 32-byte seed (RFC 8032 §5.1.5)."""
        return cls(seed)

    def sign(self, domain: str, body: bytes) -> bytes:
        """The 64-byte signature over `domain || 0x00 || body`."""
        return bindings.crypto_sign(_signing_input(domain, body), self._secret)[:SIGNATURE_BYTES]

    def private_key(self) -> ed25519.Ed25519PrivateKey:
        """The key as `cryptography` knows it, for writing it down."""
        return ed25519.Ed25519PrivateKey.from_private_bytes(self._secret[:SEED_BYTES])

    def __repr__(self) -> str:
        return f"NodeKey({self.node_id.short}…)"


class BoxKey:
    """An X25519 key, for datagrams and sealed messages. `public` is its 32-byte public half."""

    __slots__ = ("_private", "public")

    def __init__(self, secret: bytes) -> None:
        self._private = x25519.X25519PrivateKey.from_private_bytes(secret)
        self.public: bytes = self._private.public_key().public_bytes_raw()

    @classmethod
    def generate(cls, token_bytes: Callable[[int], bytes]) -> BoxKey:
        """A new key from 32 secret random bytes."""
        return cls(token_bytes(SEED_BYTES))

    def private_key(self) -> x25519.X25519PrivateKey:
        """The key as `cryptography` knows it, for writing it down and for key agreement."""
        return self._private

    def __repr__(self) -> str:
        return f"BoxKey({self.public.hex()[:8]}…)"


def make_tls_key(token_bytes: Callable[[int], bytes]) -> TlsKey:
    """A new P-256 key. 128 bits beyond those of the order make the remainder's bias negligible (FIPS 186-5 A.2.1)."""
    number = int.from_bytes(token_bytes(48), "big") % (_P256_ORDER - 1) + 1
    return ec.derive_private_key(number, ec.SECP256R1())


def private_pem(key: PrivateKey) -> bytes:
    """The key as an unencrypted PKCS #8 `PRIVATE KEY` block (RFC 5958, RFC 8410)."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
