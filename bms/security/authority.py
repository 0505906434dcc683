"""The mesh's authority: the keys that admit members, and what they sign (formats.md).

Founding makes a root and a first issuer, and bundle 1 that names them. The root signs issuers and bundles and nothing
else, so its file may be taken away and kept offline; the issuer admits members with its Ed25519 key and gives out node
certificates with its P-256 key. An authority never talks data.

    authority/root.pem     CERTIFICATE root; PRIVATE KEY                                    may be absent
    authority/issuer.pem   CERTIFICATE issuer; PRIVATE KEY P-256, Ed25519; BMS AUTHORITY BUNDLE

Both are 0600 and come to be at once (`disk.write_folder`). Deliberately absent, for now: more issuers, rotation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import attrs
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from ..errors import RefusedError
from ..values import NodeId
from ..wire.codec import encode
from . import disk, pem
from .bundle import Bundle, State
from .certificates import (
    LEAF_DAYS,
    build_issuer,
    build_leaf,
    build_root,
    key_sha256,
    node_uri,
    spki_sha256,
)
from .keys import BoxKey, NodeKey, PrivateKey, TlsKey, TlsPublicKey, make_tls_key, private_pem
from .pemfile import PemFile
from .records import MEMBER_GRANTS, Admission

__all__ = ["Authority", "IdentityFiles"]

_SERIAL_BYTES = 20


@attrs.frozen
class IdentityFiles:
    """The three files that make a node a member: key.pem (secret), cert.pem, trust.pem."""

    key_pem: bytes = attrs.field(repr=False)
    cert_pem: bytes
    trust_pem: bytes

    @property
    def files(self) -> dict[str, bytes]:
        """Their contents by file name."""
        return {"key.pem": self.key_pem, "cert.pem": self.cert_pem, "trust.pem": self.trust_pem}


class Authority:
    """An issuer's keys, the bundle that names it and, unless it is kept elsewhere, the root's key."""

    def __init__(
        self,
        bundle: Bundle,
        issuer_key: NodeKey,
        certifying_key: TlsKey,
        root_key: TlsKey | None,
        token_bytes: Callable[[int], bytes],
    ) -> None:
        issuer = bundle.issuer(issuer_key.node_id.raw)
        if issuer is None:
            raise ValueError("the bundle does not name this issuer")
        self.bundle = bundle
        self._issuer = issuer
        self._issuer_key = issuer_key
        self._certifying_key = certifying_key
        self._root_key = root_key
        self._token_bytes = token_bytes

    def __repr__(self) -> str:
        return f"Authority(mesh {self.mesh_id.hex()[:8]}, issuer {self._issuer_key.node_id.short})"

    @property
    def mesh_id(self) -> bytes:
        """The mesh it is of (32 bytes)."""
        return self.bundle.mesh_id

    @property
    def has_root_key(self) -> bool:
        """Whether the root's key is here too, and not kept offline."""
        return self._root_key is not None

    # --- made, stored

    @classmethod
    def create(cls, *, token_bytes: Callable[[int], bytes], now: float) -> Authority:
        """Found a mesh at `now` (Unix seconds): root, first issuer, bundle 1. Nothing is stored."""
        root_key, certifying_key = make_tls_key(token_bytes), make_tls_key(token_bytes)
        issuer_key = NodeKey.generate(token_bytes)
        root_der = build_root(root_key, now=now, random=token_bytes(_SERIAL_BYTES))
        issuer_id, public = issuer_key.node_id.raw, certifying_key.public_key()
        random = token_bytes(_SERIAL_BYTES)
        issuer_der = build_issuer(public, issuer_id, root_der, root_key, now=now, random=random)
        bundle = Bundle.sign(
            root_key,
            mesh_id=key_sha256(root_key.public_key()),
            number=1,
            previous=bytes(32),
            issued_at=int(now * 1000),
            roots=[(root_der, State.ACTIVE)],
            issuers=[(issuer_id, issuer_der, State.ACTIVE, None)],
        )
        return cls(bundle, issuer_key, certifying_key, root_key, token_bytes)

    @property
    def files(self) -> dict[str, bytes]:
        """What an `authority/` folder holds, by file name. Secret."""
        issuer = [
            pem.dump(pem.CERTIFICATE, self._issuer.certificate_der),
            private_pem(self._certifying_key),
            private_pem(self._issuer_key.private_key()),
            pem.dump(pem.BUNDLE, encode(self.bundle.signed)),
        ]
        found = {"issuer.pem": b"".join(issuer)}
        if self._root_key is not None:
            root = self.bundle.root(key_sha256(self._root_key.public_key()))
            assert root is not None  # it was created with it, or checked when it was loaded
            found["root.pem"] = pem.dump(pem.CERTIFICATE, root.certificate_der) + private_pem(self._root_key)
        return found

    def save(self, folder: Path) -> None:
        """Create `folder` with the authority's files, at once or not at all; raises OSError, also if it is there."""
        disk.write_folder(folder, self.files)

    @classmethod
    def load(cls, folder: Path, *, token_bytes: Callable[[int], bytes], field: str = "found_mesh") -> Authority:
        """Read `folder`; ConfigError about the setting `field` if it is damaged or others may read it.

        root.pem may be missing: then this authority can admit members and make no new bundle.
        """
        file = PemFile.read(folder / "issuer.pem", field, private=True)
        bundle, keys = file.bundle(), file.private_keys()
        match keys:
            case [ec.EllipticCurvePrivateKey() as certifying_key, ed25519.Ed25519PrivateKey() as signing_key]:
                issuer_key = NodeKey.from_seed(signing_key.private_bytes_raw())
            case _:
                raise file.wrong("its private keys are not one P-256 and then one Ed25519")
        issuer = bundle.issuer(issuer_key.node_id.raw)
        if issuer is None or issuer.certificate_der != file.one(pem.CERTIFICATE):
            raise file.wrong("its keys are not those of an issuer in its bundle")
        if spki_sha256(issuer.certificate_der) != key_sha256(certifying_key.public_key()):
            raise file.wrong("its P-256 key is not the one of its certificate")
        return cls(bundle, issuer_key, certifying_key, _read_root(folder / "root.pem", bundle, field), token_bytes)

    # --- what it signs

    def issue_admission(
        self,
        node_id: NodeId,
        *,
        now_ms: int,
        role: str = "member",
        grants: Sequence[tuple[str, int]] = MEMBER_GRANTS,
        last_serial: int = 0,
    ) -> Admission:
        """Admit a node. `last_serial` is that of its admission before, so that this one is in force afterwards.

        Raises RefusedError if this issuer is no longer active.
        """
        self._check_active()
        serial = max(now_ms, last_serial + 1)
        return Admission.sign(
            self._issuer_key, mesh_id=self.mesh_id, node_id=node_id, serial=serial, role=role, grants=grants
        )

    def issue_certificate(self, node_id: NodeId, key: TlsPublicKey, *, now: float, days: float = LEAF_DAYS) -> bytes:
        """A chain (PEM: leaf, issuer) for a node's TLS key, starting a day before `now` and ending `days` after it.

        Raises RefusedError if this issuer is no longer active.
        """
        self._check_active()
        issuer_der, random = self._issuer.certificate_der, self._token_bytes(_SERIAL_BYTES)
        uri = node_uri(self.mesh_id, node_id)
        leaf = build_leaf(key, uri, issuer_der, self._certifying_key, now=now, days=days, random=random)
        return pem.dump(pem.CERTIFICATE, leaf) + pem.dump(pem.CERTIFICATE, issuer_der)

    def issue_identity(
        self,
        node_key: NodeKey,
        box_key: BoxKey,
        *,
        now: float,
        days: float = LEAF_DAYS,
        role: str = "member",
        grants: Sequence[tuple[str, int]] = MEMBER_GRANTS,
        admission: Admission | None = None,
    ) -> IdentityFiles:
        """The files of a node with these keys and a fresh TLS key; with `admission`, that one is kept.

        Raises RefusedError if this issuer is no longer active.
        """
        tls_key = make_tls_key(self._token_bytes)
        node_id = node_key.node_id
        if admission is None:
            admission = self.issue_admission(node_id, now_ms=int(now * 1000), role=role, grants=grants)
        chain = self.issue_certificate(node_id, tls_key.public_key(), now=now, days=days)
        secrets: tuple[PrivateKey, ...] = (tls_key, node_key.private_key(), box_key.private_key())
        roots = [root.certificate_der for root in self.bundle.roots if root.state is not State.REVOKED]
        return IdentityFiles(
            b"".join(private_pem(key) for key in secrets),
            chain + pem.dump(pem.ADMISSION, encode(admission.signed)),
            b"".join(pem.dump(pem.CERTIFICATE, root) for root in roots)
            + pem.dump(pem.BUNDLE, encode(self.bundle.signed)),
        )

    def _check_active(self) -> None:
        if self._issuer.state is not State.ACTIVE:
            raise RefusedError(f"this issuer is {self._issuer.state.name.lower()} and may sign nothing new")


def _read_root(path: Path, bundle: Bundle, field: str) -> TlsKey | None:
    """The root's key, if it is kept here."""
    if not path.exists():
        return None
    file = PemFile.read(path, field, private=True)
    match file.private_keys():
        case [ec.EllipticCurvePrivateKey() as key]:
            root = bundle.root(key_sha256(key.public_key()))
        case _:
            raise file.wrong("it should hold one P-256 private key")
    if root is None or root.certificate_der != file.one(pem.CERTIFICATE):
        raise file.wrong("it is not a root of the bundle in issuer.pem")
    return key
