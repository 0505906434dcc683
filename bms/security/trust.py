"""What this node believes: which issuers count now, and so who is a member and what each may do.

    admission     its issuer is in the bundle, active or retired, its serial at most the issuer's `until`    -> a member
    card          such an admission, and a record of the same node whose boot is not absurdly ahead
    certificate   the profile of a node of this mesh, signed by an issuer of the bundle that is active or retired

One Trust goes with one bundle; another bundle is another Trust. Admissions that were verified are remembered (bounded),
since the same ones arrive with every link, push and round of gossip. So is the highest admission seen of each node:
rights are those of that one, not of an older one that the node prefers to show. And so is the newest record of each
node, one a member: in a mesh of n nodes each link brings the same n cards.

Grants are default deny. A right counts where the scope of a grant is exactly the scope asked for, or ends in `*` and
what stands before that begins it. Deliberately absent, for now: the deny list.
"""

from __future__ import annotations

import threading

from ..errors import RefusedError, RemoteProtocolError
from ..values import NodeId
from .bundle import Bundle
from .certificates import REFUSED, CertificateInfo, check_leaf_untrusted, describe, first_der, is_issued
from .records import Admission, NodeRecord

__all__ = ["ADMIN", "DELETE", "READ", "WATCH", "WRITE", "Trust"]

READ, WRITE, DELETE, WATCH, ADMIN = 1, 2, 4, 8, 16

BOOT_AHEAD_MS_MAX = 315_576_000_000
"""10 years of 365.25 days."""
_REMEMBERED_MAX = 16_384


class Trust:
    """A bundle, applied. May be used from several threads."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self._verified: dict[bytes, Admission] = {}
        self._highest: dict[NodeId, Admission] = {}
        self._newest: dict[NodeId, NodeRecord] = {}
        self._records: dict[bytes, NodeRecord] = {}
        """The same records by their bodies."""
        self._remembering = threading.Lock()

    def __repr__(self) -> str:
        return f"Trust(mesh {self.bundle.mesh_id.hex()[:8]}, bundle {self.bundle.number})"

    def check_admission_untrusted(self, signed: object) -> Admission:
        """The admission, if an issuer that counts has signed it; otherwise RemoteProtocolError."""
        remembered = self._verified.get(_key(signed))
        if remembered is not None:
            return remembered
        admission = Admission.parse_untrusted(signed)
        if admission.mesh_id != self.bundle.mesh_id:
            raise _refuse("admission is of another mesh")
        issuer = self.bundle.issuer(admission.issuer_id)
        if issuer is None or not issuer.counts:
            raise _refuse("admission is by an issuer that does not count in this mesh")
        if issuer.until is not None and admission.serial > issuer.until:
            raise _refuse("admission is later than what counts of its issuer")
        self._remember(_key(signed), admission)
        return admission

    def _remember(self, key: bytes, admission: Admission) -> None:
        with self._remembering:
            if len(self._verified) >= _REMEMBERED_MAX:
                self._verified.clear()
            self._verified[key] = admission
            known = self._highest.get(admission.node_id)
            if known is None or known.serial < admission.serial:
                self._highest[admission.node_id] = admission

    def check_card_untrusted(self, card: object) -> tuple[Admission, NodeRecord]:
        """A member and its record, from a card; otherwise RemoteProtocolError.

        The admission returned is the one in force, which may be a higher one than the card shows. Boots are held
        against the admission's serial, so that a wrong clock here refuses nobody.
        """
        if not isinstance(card, (list, tuple)) or len(card) != 3:
            raise RemoteProtocolError("a card is not an array of admission, record and details")
        admission = self.check_admission_untrusted(card[0])
        record = self._remembered_record(card[1], card[2])
        if record is None:
            record = NodeRecord.parse_untrusted(card[1], card[2])
        if record.mesh_id != self.bundle.mesh_id:
            raise _refuse("node record is of another mesh")
        if record.node_id != admission.node_id:
            raise _refuse("admission and record of a card are of different nodes")
        admission = self._highest[admission.node_id]
        if record.boot > admission.serial + BOOT_AHEAD_MS_MAX:
            raise RemoteProtocolError("node record: its boot is more than 10 years after its admission")
        self._remember_record(record)
        return admission, record

    def _remembered_record(self, signed: object, details: object) -> NodeRecord | None:
        """The record of these very bytes, if it is the newest of its node that was verified."""
        if not isinstance(signed, (list, tuple)) or len(signed) != 2 or type(signed[0]) is not bytes:
            return None
        record = self._records.get(signed[0])
        if record is None or record.signature != signed[1] or record.details != details:
            return None
        return record

    def _remember_record(self, record: NodeRecord) -> None:
        with self._remembering:
            known = self._newest.get(record.node_id)
            if known is None or known.order < record.order:
                if known is not None:
                    self._records.pop(known.body, None)
                self._newest[record.node_id] = self._records[record.body] = record

    def check_leaf_untrusted(self, der: bytes) -> NodeId:
        """Whose certificate this is, if an issuer that counts has signed it; otherwise RemoteProtocolError.

        TLS checks the chain up to the roots and the times, but knows nothing of issuers that were revoked.
        """
        node_id = check_leaf_untrusted(der, self.bundle.mesh_id)
        if not any(is_issued(der, issuer.certificate_der) for issuer in self.bundle.issuers if issuer.counts):
            raise _refuse("certificate is by an issuer that does not count in this mesh")
        return node_id

    def in_force(self, node_id: NodeId) -> Admission | None:
        """The highest admission seen of a node; None if none was."""
        return self._highest.get(node_id)

    def allows(self, admission: Admission, scope: str, right: int) -> bool:
        """Whether an admission's grants, taken together, hold all bits of `right` for "space:NAME" or "topic:NAME"."""
        held = 0
        for granted, rights in admission.grants:
            if granted == scope or (granted.endswith("*") and scope.startswith(granted[:-1])):
                held |= rights
        return held & right == right

    def validate_certificate(self, text: str | bytes, now: float) -> CertificateInfo:
        """What a node's certificate (PEM) says, if this mesh accepts it at `now` (Unix seconds).

        Otherwise RefusedError with the reason.
        """
        info = describe(text)
        try:
            self.check_leaf_untrusted(first_der(text))
        except RemoteProtocolError as error:
            raise RefusedError(str(error)) from error
        if not info.not_before <= now <= info.not_after:
            raise RefusedError("certificate: it has expired" if now > info.not_after else "certificate: not valid yet")
        return info


def _refuse(why: str) -> RemoteProtocolError:
    return RemoteProtocolError(why, code=REFUSED)


def _key(signed: object) -> bytes:
    """What a verified admission is remembered by: all its bytes. Other things have the empty key, never used."""
    if not isinstance(signed, (list, tuple)) or len(signed) != 2:
        return b""
    body, signature = signed
    if type(body) is not bytes or type(signature) is not bytes:
        return b""
    return len(body).to_bytes(8, "big") + body + signature
