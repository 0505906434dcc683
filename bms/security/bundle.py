"""The authority bundle: which roots and issuers the mesh has, signed and numbered (formats.md, "Authority bundle").

    body = [1, mesh_id, number, previous, issued_at, roots, issuers, signer, extra]

Bundles form a chain that begins at the mesh id. Number 1 is signed by the root whose key *is* the mesh id, which stands
first and is active; each later one names the hash of the one before and is signed by a root that was active there. So
whoever knows a mesh id and has the chain needs to trust nobody else.

    state      may sign new things      what it signed counts
    prepared   no                       no (a root only: known before it is used)
    active     yes                      yes
    retired    no                       yes
    revoked    no                       no, and for ever

An issuer may have `until`, the highest admission serial of it that counts: what a stolen key signs later is cut off,
and what it signed before stays.

Deliberately absent: making bundle 2 and later (rotation brings that); reading and following them is here.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Sequence

import attrs
from cryptography.exceptions import InvalidSignature

from ..errors import RemoteProtocolError
from ..wire.codec import encode
from .certificates import (
    DER_BYTES_MAX,
    REFUSED,
    check_issuer_untrusted,
    check_root_untrusted,
    is_issued,
    key_sha256,
)
from .keys import P256_SHA256, TlsKey, TlsPublicKey
from .signed import (
    FORMAT,
    array_untrusted,
    body_untrusted,
    built,
    bytes_untrusted,
    split_untrusted,
    uint_untrusted,
)

__all__ = ["DOMAIN", "Bundle", "Issuer", "Root", "State"]

DOMAIN = "bms-bundle-v1"
BODY_BYTES_MAX = 65_536
ROOTS_MAX = 16
ISSUERS_MAX = 64
_NO_PREVIOUS = bytes(32)


class State(enum.IntEnum):
    """Of a root or an issuer."""

    PREPARED = 0
    ACTIVE = 1
    RETIRED = 2
    REVOKED = 3


@attrs.frozen
class Root:
    """A root certificate; `key_sha256` is the SHA-256 of its SPKI, by which it is named."""

    certificate_der: bytes = attrs.field(repr=False)
    state: State
    key_sha256: bytes = attrs.field(repr=bytes.hex)


@attrs.frozen
class Issuer:
    """An issuer: its Ed25519 public key signs admissions, its certificate node certificates."""

    issuer_id: bytes = attrs.field(repr=bytes.hex)
    certificate_der: bytes = attrs.field(repr=False)
    state: State
    until: int | None = None

    @property
    def counts(self) -> bool:
        """Whether what it signed is believed (admissions: up to the serial `until`)."""
        return self.state in (State.ACTIVE, State.RETIRED)


@attrs.frozen
class Bundle:
    """A bundle whose signature was checked. `issued_at` is in milliseconds."""

    mesh_id: bytes = attrs.field(repr=bytes.hex)
    number: int
    previous: bytes = attrs.field(repr=bytes.hex)
    issued_at: int
    roots: tuple[Root, ...]
    issuers: tuple[Issuer, ...]
    signer: bytes = attrs.field(repr=bytes.hex)
    body: bytes = attrs.field(repr=False)
    signature: bytes = attrs.field(repr=False)

    @property
    def signed(self) -> list[bytes]:
        """The signed object as it was received."""
        return [self.body, self.signature]

    @property
    def sha256(self) -> bytes:
        """What the next bundle names as `previous`."""
        return hashlib.sha256(self.body).digest()

    def issuer(self, issuer_id: bytes) -> Issuer | None:
        """The issuer of that id, in whatever state."""
        return next((issuer for issuer in self.issuers if issuer.issuer_id == issuer_id), None)

    def root(self, key: bytes) -> Root | None:
        """The root whose SPKI has that SHA-256."""
        return next((root for root in self.roots if root.key_sha256 == key), None)

    @classmethod
    def sign(
        cls,
        root_key: TlsKey,
        *,
        mesh_id: bytes,
        number: int,
        previous: bytes,
        issued_at: int,
        roots: Sequence[tuple[bytes, int]],
        issuers: Sequence[tuple[bytes, bytes, int, int | None]],
    ) -> Bundle:
        """A new bundle; raises LocalProtocolError where a reader would refuse it."""
        signer = key_sha256(root_key.public_key())
        listed = [[list(root) for root in roots], [list(issuer) for issuer in issuers]]
        body = encode([FORMAT, mesh_id, number, previous, issued_at, *listed, signer, {}])
        with built():
            return cls.parse_untrusted([body, root_key.sign(_signing_input(body), P256_SHA256)])

    @classmethod
    def parse_untrusted(cls, signed: object) -> Bundle:
        """Read a bundle that agrees with itself: it is signed by a root that it lists.

        That alone says nothing about whose it is: for files of one's own. Others' go through `verify_untrusted` or
        `follow_untrusted`.
        """
        bundle, keys = _read_untrusted(signed)
        if bundle.signer not in keys:
            raise _refuse("its signer is not among its roots")
        _check_signature(bundle, keys[bundle.signer])
        return bundle

    @classmethod
    def verify_untrusted(cls, signed: object, mesh_id: bytes) -> Bundle:
        """Read bundle 1 of this mesh."""
        bundle = cls.parse_untrusted(signed)
        if bundle.mesh_id != mesh_id:
            raise _refuse("it is of another mesh")
        if bundle.number != 1:
            raise _refuse("it does not follow the one held")
        return bundle

    def follow_untrusted(self, signed: object) -> Bundle:
        """Read the bundle that follows this one."""
        bundle, _ = _read_untrusted(signed)
        if bundle.mesh_id != self.mesh_id:
            raise _refuse("it is of another mesh")
        if bundle.number != self.number + 1 or bundle.previous != self.sha256:
            raise _refuse("it does not follow the one held")
        root = self.root(bundle.signer)
        if root is None or root.state is not State.ACTIVE:
            raise _refuse("its signer is not an active root")
        self._check_final(bundle)
        _check_signature(bundle, check_root_untrusted(root.certificate_der))
        return bundle

    def _check_final(self, later: Bundle) -> None:
        """Nothing that was revoked comes back."""
        for issuer in self.issuers:
            now = later.issuer(issuer.issuer_id)
            if issuer.state is State.REVOKED and now is not None and now.state is not State.REVOKED:
                raise _refuse("it brings back a revoked issuer")
        for root in self.roots:
            then = later.root(root.key_sha256)
            if root.state is State.REVOKED and then is not None and then.state is not State.REVOKED:
                raise _refuse("it brings back a revoked root")


def _refuse(why: str) -> RemoteProtocolError:
    return RemoteProtocolError(f"authority bundle: {why}", code=REFUSED)


def _signing_input(body: bytes) -> bytes:
    return DOMAIN.encode("ascii") + b"\x00" + body


def _check_signature(bundle: Bundle, key: TlsPublicKey) -> None:
    try:
        key.verify(bundle.signature, _signing_input(bundle.body), P256_SHA256)
    except InvalidSignature:
        raise _refuse("its signature is wrong") from None


def _certificate_untrusted(value: object) -> bytes:
    if type(value) is not bytes or len(value) > DER_BYTES_MAX:
        raise RemoteProtocolError("authority bundle: a certificate is not a byte string of usual size")
    return value


def _roots_untrusted(listed: object) -> tuple[tuple[Root, ...], dict[bytes, TlsPublicKey]]:
    """The roots and their keys by name; two under one name are refused."""
    roots = []
    keys: dict[bytes, TlsPublicKey] = {}
    for item in array_untrusted(listed, "bundle roots", 1, ROOTS_MAX):
        der, state = array_untrusted(item, "bundle root", 2, 2)
        key = check_root_untrusted(_certificate_untrusted(der))
        root = Root(der, State(uint_untrusted(state, "root state", State.REVOKED)), key_sha256(key))
        if root.key_sha256 in keys:
            raise _refuse("a root stands twice")
        keys[root.key_sha256] = key
        roots.append(root)
    return tuple(roots), keys


def _issuers_untrusted(listed: object, roots: tuple[Root, ...]) -> tuple[Issuer, ...]:
    """The issuers, each under one of the roots."""
    issuers: list[Issuer] = []
    keys = set()
    for item in array_untrusted(listed, "bundle issuers", 0, ISSUERS_MAX):
        issuer_id, der, number, until = array_untrusted(item, "bundle issuer", 4, 4)
        state = State(uint_untrusted(number, "issuer state", State.REVOKED))
        if state is State.PREPARED:
            raise RemoteProtocolError("authority bundle: an issuer is active, retired or revoked")
        until = until if until is None else uint_untrusted(until, "issuer until")
        issuer = Issuer(bytes_untrusted(issuer_id, "issuer id"), _certificate_untrusted(der), state, until)
        key = key_sha256(check_issuer_untrusted(der))
        if key in keys or any(other.issuer_id == issuer.issuer_id for other in issuers):
            raise _refuse("an issuer stands twice")
        keys.add(key)
        if not any(is_issued(der, root.certificate_der) for root in roots):
            raise _refuse("an issuer's certificate is of none of its roots")
        issuers.append(issuer)
    return tuple(issuers)


def _read_untrusted(signed: object) -> tuple[Bundle, dict[bytes, TlsPublicKey]]:
    """Everything but the signature; also the roots' keys by name."""
    body, signature = split_untrusted(signed, "authority bundle", BODY_BYTES_MAX)
    mesh_id, number, previous, issued_at, listed_roots, listed_issuers, signer = body_untrusted(body, "bundle", 7)
    roots, keys = _roots_untrusted(listed_roots)
    bundle = Bundle(
        bytes_untrusted(mesh_id, "bundle mesh id"),
        uint_untrusted(number, "bundle number"),
        bytes_untrusted(previous, "bundle previous"),
        uint_untrusted(issued_at, "bundle time"),
        roots,
        _issuers_untrusted(listed_issuers, roots),
        bytes_untrusted(signer, "bundle signer"),
        body,
        signature,
    )
    if bundle.number == 0 or (bundle.number == 1) != (bundle.previous == _NO_PREVIOUS):
        raise _refuse("number and previous do not agree")
    if bundle.number == 1 and (bundle.signer != mesh_id or roots[0].key_sha256 != mesh_id):
        raise _refuse("number 1 does not begin with the root that the mesh id names, or is not signed by it")
    if bundle.number == 1 and roots[0].state is not State.ACTIVE:
        raise _refuse("number 1 has a first root that is not active")
    return bundle, keys
