"""X.509 of the mesh (RFC 5280, SPIFFE X.509-SVID): building root, issuer and node certificates, and checking them.

    root     self-signed, P-256, CA:true; the SHA-256 of its SPKI is the mesh id (the first root of bundle 1)
    issuer   by a root, P-256, CA:true pathLen 0, keyUsage keyCertSign + cRLSign
    node     by an issuer, P-256, CA:false, empty subject, one critical URI SAN `spiffe://<mesh id>/node/<node id>`,
             keyUsage digitalSignature alone, extendedKeyUsage serverAuth + clientAuth

A node's certificate only carries the channel; membership is the admission's to say. The check is of the whole profile:
what a correct issuer does not write is refused, so there is exactly one way to say who a node is. TLS verifies the
chain and the times; `trust` adds which issuers count now.

All certificates start 24 hours in the past, for clocks that run behind. Deliberately absent: name constraints
(`cryptography`'s verifier cannot check URI ones), CRLs and OCSP (the mesh has its own deny list), RSA and Ed25519 keys.
"""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime, timedelta

import attrs
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ..errors import RefusedError, RemoteProtocolError
from ..values import NodeId
from . import pem
from .keys import ECDSA_DETERMINISTIC, TlsKey, TlsPublicKey

__all__ = [
    "LEAF_DAYS",
    "CertificateInfo",
    "build_issuer",
    "build_leaf",
    "build_root",
    "check_issuer_untrusted",
    "check_leaf_untrusted",
    "check_root_untrusted",
    "describe",
    "first_der",
    "is_issued",
    "key_sha256",
    "node_uri",
    "spki_sha256",
    "validity_s",
]

LEAF_DAYS = 90
REFUSED = 2
DER_BYTES_MAX = 16_384
_ROOT_LIFE = timedelta(days=30 * 365)
_ISSUER_LIFE = timedelta(days=10 * 365)
_CLOCK_BEHIND = timedelta(hours=24)
_SERIAL_MAX = 1 << 159
_URI = re.compile("spiffe://([0-9a-f]{64})/node/([0-9a-f]{64})")
_EKU = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
_HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512)


@attrs.frozen
class CertificateInfo:
    """What a node's certificate says. Times are Unix seconds; `mesh_id` and `spki_sha256` are hexadecimal."""

    node_id: NodeId
    mesh_id: str
    not_before: float
    not_after: float
    issuer: str
    spki_sha256: str


# --- building


def _moment(now: float) -> datetime:
    return datetime.fromtimestamp(int(now), UTC)


def _key_usage(*, sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign,
        crl_sign=sign,
        encipher_only=False,
        decipher_only=False,
    )


def _serial(random: bytes) -> int:
    """A positive serial number of at most 20 octets (RFC 5280 §4.1.2.2)."""
    return int.from_bytes(random, "big") % (_SERIAL_MAX - 1) + 1


def _common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _sign(builder: x509.CertificateBuilder, key: TlsKey) -> x509.Certificate:
    return builder.sign(key, hashes.SHA256(), ecdsa_deterministic=ECDSA_DETERMINISTIC or None)


def _ca(
    subject: x509.Name, issuer: x509.Name, key: TlsPublicKey, signer: TlsPublicKey, path_length: int | None
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_key_usage(sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer), critical=False)
    )


def build_root(key: TlsKey, *, now: float, random: bytes) -> bytes:
    """A root certificate (DER) for `key`, valid for 30 years; `random` is 16 bytes for its serial number."""
    public = key.public_key()
    name = _common_name(f"bms root {key_sha256(public).hex()[:16]}")
    builder = _ca(name, name, public, public, None).serial_number(_serial(random))
    start = _moment(now)
    builder = builder.not_valid_before(start - _CLOCK_BEHIND).not_valid_after(start + _ROOT_LIFE)
    return _der(_sign(builder, key))


def build_issuer(
    key: TlsPublicKey, issuer_id: bytes, root_der: bytes, root_key: TlsKey, *, now: float, random: bytes
) -> bytes:
    """An issuer certificate (DER) for `key`, valid for 10 years, signed by the root."""
    root = x509.load_der_x509_certificate(root_der)
    name = _common_name(f"bms issuer {issuer_id.hex()[:16]}")
    builder = _ca(name, root.subject, key, root_key.public_key(), 0).serial_number(_serial(random))
    start = _moment(now)
    end = min(start + _ISSUER_LIFE, root.not_valid_after_utc)
    return _der(_sign(builder.not_valid_before(start - _CLOCK_BEHIND).not_valid_after(end), root_key))


def build_leaf(
    key: TlsPublicKey, uri: str, issuer_der: bytes, issuer_key: TlsKey, *, now: float, days: float, random: bytes
) -> bytes:
    """A node certificate (DER) for `key` and the name `uri`, ending in `days` days but not after its issuer."""
    issuer = x509.load_der_x509_certificate(issuer_der)
    start = _moment(now)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(issuer.subject)
        .public_key(key)
        .serial_number(_serial(random))
        .not_valid_before(start - _CLOCK_BEHIND)
        .not_valid_after(min(start + timedelta(days=days), issuer.not_valid_after_utc))
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=True)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(sign=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(sorted(_EKU, key=lambda oid: oid.dotted_string)), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    return _der(_sign(builder, issuer_key))


def node_uri(mesh_id: bytes, node_id: NodeId) -> str:
    """The name in a node's certificate (SPIFFE ID)."""
    return f"spiffe://{mesh_id.hex()}/node/{node_id}"


# --- reading


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


def _refuse(why: str) -> RemoteProtocolError:
    return RemoteProtocolError(f"certificate: {why}", code=REFUSED)


def _load_untrusted(der: bytes) -> tuple[x509.Certificate, x509.Extensions]:
    """The certificate, with everything looked at once that the library parses late. A warning of its counts as bad."""
    if len(der) > DER_BYTES_MAX:
        raise _refuse(f"larger than {DER_BYTES_MAX} bytes")
    try:
        certificate = x509.load_der_x509_certificate(der)
        version, extensions, serial = certificate.version, certificate.extensions, certificate.serial_number
        certificate.subject, certificate.issuer, certificate.not_valid_after_utc  # noqa: B018  parsed when asked for
        algorithm = certificate.signature_hash_algorithm
    except (
        ValueError,
        TypeError,
        OverflowError,
        UnsupportedAlgorithm,
        Warning,
        x509.DuplicateExtension,
        x509.InvalidVersion,
        x509.UnsupportedGeneralNameType,
    ) as error:
        raise _refuse(f"cannot be read: {error}") from error
    if version is not x509.Version.v3 or serial <= 0:
        raise _refuse("not version 3 with a positive serial number")
    if not isinstance(algorithm, _HASHES):
        raise _refuse("signed with another hash than SHA-2")
    return certificate, extensions


def _key_untrusted(certificate: x509.Certificate) -> TlsPublicKey:
    """Its public key, which must be P-256 and written in the one usual way, so that its SPKI has one hash."""
    try:
        key = certificate.public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _refuse(f"its key cannot be read: {error}") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise _refuse("its key is not ECDSA P-256")
    if _spki(key) not in certificate.tbs_certificate_bytes:
        raise _refuse("its key is not an uncompressed point")
    return key


def _spki(key: TlsPublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def key_sha256(key: TlsPublicKey) -> bytes:
    """SHA-256 of a public key's SubjectPublicKeyInfo."""
    return hashlib.sha256(_spki(key)).digest()


def spki_sha256(der: bytes) -> bytes:
    """SHA-256 of the SubjectPublicKeyInfo of a P-256 certificate; raises RemoteProtocolError for any other bytes."""
    return key_sha256(_key_untrusted(_load_untrusted(der)[0]))


def validity_s(der: bytes) -> tuple[float, float]:
    """From and until when a certificate that was checked before is valid, in Unix seconds."""
    certificate = x509.load_der_x509_certificate(der)
    return certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()


def _critical_known(extensions: x509.Extensions, known: tuple[type[x509.ExtensionType], ...]) -> None:
    for extension in extensions:
        if isinstance(extension.value, x509.NameConstraints):
            raise _refuse("it has name constraints")
        if extension.critical and not isinstance(extension.value, known):
            raise _refuse(f"unknown critical extension {extension.oid.dotted_string}")


def _critical(extensions: x509.Extensions, kind: type[x509.ExtensionType], what: str) -> x509.ExtensionType:
    """The one extension of a kind, which must be there and critical."""
    for extension in extensions:
        if isinstance(extension.value, kind):
            if not extension.critical:
                raise _refuse(f"its {what} is not critical")
            return extension.value
    raise _refuse(f"it has no {what}")


def _names_untrusted(certificate: x509.Certificate, extensions: x509.Extensions) -> tuple[bytes, NodeId]:
    """The mesh id and the NodeId of a leaf, from the one place where they may stand."""
    if len(certificate.subject.rdns):
        raise _refuse("its subject is not empty")
    names = _critical(extensions, x509.SubjectAlternativeName, "subjectAltName")
    assert isinstance(names, x509.SubjectAlternativeName)
    listed = list(names)
    if len(listed) != 1 or not isinstance(listed[0], x509.UniformResourceIdentifier):
        raise _refuse("its subjectAltName is not exactly one URI")
    match = _URI.fullmatch(listed[0].value)
    if match is None:
        raise _refuse("its URI is not spiffe://<mesh id>/node/<node id> in lower case")
    return bytes.fromhex(match[1]), NodeId(match[2])


def _leaf_untrusted(der: bytes) -> tuple[x509.Certificate, bytes, NodeId, TlsPublicKey]:
    """Check everything about a leaf that needs no knowledge of a mesh."""
    certificate, extensions = _load_untrusted(der)
    key = _key_untrusted(certificate)
    mesh_id, node_id = _names_untrusted(certificate, extensions)
    known = (x509.SubjectAlternativeName, x509.BasicConstraints, x509.KeyUsage, x509.ExtendedKeyUsage)
    _critical_known(extensions, known)
    constraints = _critical(extensions, x509.BasicConstraints, "basicConstraints")
    if constraints != x509.BasicConstraints(ca=False, path_length=None):
        raise _refuse("it may sign other certificates (CA:true)")
    if _critical(extensions, x509.KeyUsage, "keyUsage") != _key_usage(sign=False):
        raise _refuse("its keyUsage is not digitalSignature alone")
    usages = [extension.value for extension in extensions if isinstance(extension.value, x509.ExtendedKeyUsage)]
    if not usages or set(usages[0]) != _EKU:
        raise _refuse("its extendedKeyUsage is not serverAuth and clientAuth")
    return certificate, mesh_id, node_id, key


def check_leaf_untrusted(der: bytes, mesh_id: bytes) -> NodeId:
    """Whose certificate this is, if it has the profile of a node of this mesh.

    Raises RemoteProtocolError with code 2. Signature and times are TLS's to check, `Trust` checks the issuer's state.
    """
    _, mesh, node_id, _ = _leaf_untrusted(der)
    if mesh != mesh_id:
        raise _refuse("it is of another mesh")
    return node_id


def _ca_untrusted(der: bytes) -> tuple[x509.Certificate, TlsPublicKey, int | None]:
    """Check what root and issuer certificates have in common; returns also the pathLen."""
    certificate, extensions = _load_untrusted(der)
    key = _key_untrusted(certificate)
    _critical_known(extensions, (x509.BasicConstraints, x509.KeyUsage))
    constraints = _critical(extensions, x509.BasicConstraints, "basicConstraints")
    assert isinstance(constraints, x509.BasicConstraints)
    if not constraints.ca or not len(certificate.subject.rdns):
        raise _refuse("it is not an authority's (CA:false or no subject)")
    if _critical(extensions, x509.KeyUsage, "keyUsage") != _key_usage(sign=True):
        raise _refuse("its keyUsage is not keyCertSign and cRLSign")
    return certificate, key, constraints.path_length


def check_root_untrusted(der: bytes) -> TlsPublicKey:
    """The key of a root certificate; raises RemoteProtocolError with code 2 if it is not one."""
    certificate, key, path_length = _ca_untrusted(der)
    if path_length == 0:
        raise _refuse("a root with pathLen 0 cannot have issuers")
    _issued(certificate, certificate)
    return key


def check_issuer_untrusted(der: bytes) -> TlsPublicKey:
    """The key of an issuer certificate; raises RemoteProtocolError with code 2 if it is not one."""
    _, key, path_length = _ca_untrusted(der)
    if path_length != 0:
        raise _refuse("an issuer's pathLen is 0")
    return key


def is_issued(der: bytes, issuer_der: bytes) -> bool:
    """Whether both are certificates and the second one's key signed the first."""
    try:
        _issued(_load_untrusted(der)[0], _load_untrusted(issuer_der)[0])
    except RemoteProtocolError:
        return False
    return True


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> None:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _refuse(f"not signed by {issuer.subject.rfc4514_string()}") from error


def first_der(text: str | bytes) -> bytes:
    """The first certificate of a PEM text; RefusedError if there is none."""
    try:
        blocks = pem.load(text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text)
    except ValueError as error:
        raise RefusedError(f"certificate: {error}") from error
    for label, content in blocks:
        if label == pem.CERTIFICATE:
            return content
    raise RefusedError("certificate: no CERTIFICATE block in this text")


def describe(text: str | bytes) -> CertificateInfo:
    """What a node's certificate (the first of a PEM text) says; RefusedError with the reason if it has not the profile.

    Neither who signed it nor whether it has expired is looked at: `Trust.validate_certificate` does.
    """
    try:
        certificate, mesh_id, node_id, key = _leaf_untrusted(first_der(text))
    except RemoteProtocolError as error:
        raise RefusedError(str(error)) from error
    return CertificateInfo(
        node_id,
        mesh_id.hex(),
        certificate.not_valid_before_utc.timestamp(),
        certificate.not_valid_after_utc.timestamp(),
        certificate.issuer.rfc4514_string(),
        key_sha256(key).hex(),
    )
