"""Certificates: the profile as OpenSSL-independent code sees it, and every way of not having it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import PolicyBuilder, Store

from bms.errors import RefusedError, RemoteProtocolError
from bms.security import certificates as c
from bms.security import pem
from bms.values import NodeId

MESH = bytes(range(32))
NODE = NodeId("ab" * 32)
URI = f"spiffe://{MESH.hex()}/node/{NODE}"
NOW = 1_790_000_000.0
SERVER_AND_CLIENT = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]

Extension = tuple[x509.ExtensionType, bool]


def usage(*wanted: str) -> x509.KeyUsage:
    names = (
        "digital_signature content_commitment key_encipherment data_encipherment key_agreement key_cert_sign crl_sign"
    )
    flags = {name: name in wanted for name in [*names.split(), "encipher_only", "decipher_only"]}
    return x509.KeyUsage(**flags)


def names(*uris: str) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in uris])


PROFILE: dict[str, Extension] = {
    "names": (names(URI), True),
    "constraints": (x509.BasicConstraints(ca=False, path_length=None), True),
    "usage": (usage("digital_signature"), True),
    "extended": (x509.ExtendedKeyUsage(SERVER_AND_CLIENT), False),
}


@attrs.frozen
class Chain:
    """A root, an issuer under it, and their keys."""

    root_key: ec.EllipticCurvePrivateKey
    issuer_key: ec.EllipticCurvePrivateKey
    root: bytes
    issuer: bytes

    def leaf(self, *, days: float = 90) -> bytes:
        key = ec.generate_private_key(ec.SECP256R1()).public_key()
        return c.build_leaf(key, URI, self.issuer, self.issuer_key, now=NOW, days=days, random=b"r" * 20)


@pytest.fixture(scope="module")
def chain() -> Chain:
    root_key, issuer_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root = c.build_root(root_key, now=NOW, random=b"\xff" * 20)
    issuer = c.build_issuer(issuer_key.public_key(), NODE.raw, root, root_key, now=NOW, random=bytes(20))
    return Chain(root_key, issuer_key, root, issuer)


def forge(
    *,
    subject: x509.Name | None = None,
    key: Any = None,
    algorithm: Any = None,
    add: tuple[Extension, ...] = (),
    **changed: Extension | None,
) -> bytes:
    """A certificate with the node's profile except for what is named; None leaves an extension out."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    start = datetime.fromtimestamp(NOW, UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject or x509.Name([]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "issuer")]))
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=1))
    )
    for extension in (PROFILE | changed).values():
        if extension is not None:
            builder = builder.add_extension(extension[0], critical=extension[1])
    for value, critical in add:
        builder = builder.add_extension(value, critical=critical)
    signer = ec.generate_private_key(ec.SECP256R1())
    return builder.sign(signer, algorithm or hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def refused(der: bytes, mesh_id: bytes = MESH) -> str:
    """Why a certificate is refused, with close code 2."""
    with pytest.raises(RemoteProtocolError) as caught:
        c.check_leaf_untrusted(der, mesh_id)
    assert caught.value.code == 2
    return str(caught.value)


def test_the_profile_alone_is_accepted() -> None:
    assert c.check_leaf_untrusted(forge(), MESH) == NODE


def test_a_leaf_that_is_built_has_the_profile(chain: Chain) -> None:
    certificate = x509.load_der_x509_certificate(chain.leaf())
    assert certificate.version is x509.Version.v3
    assert not list(certificate.subject)
    for value, critical in PROFILE.values():
        found = certificate.extensions.get_extension_for_class(type(value))
        assert found.critical == critical
        if not isinstance(value, x509.ExtendedKeyUsage):
            assert found.value == value
    extended = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    assert set(extended.value) == set(SERVER_AND_CLIENT)
    assert c.check_leaf_untrusted(chain.leaf(), MESH) == NODE


def test_another_verifier_accepts_leaf_issuer_and_root_as_client_and_names_the_node(chain: Chain) -> None:
    root, issuer, leaf = map(x509.load_der_x509_certificate, (chain.root, chain.issuer, chain.leaf()))
    policy = PolicyBuilder().store(Store([root])).time(datetime.fromtimestamp(NOW, UTC))
    verified = policy.build_client_verifier().verify(leaf, [issuer])
    assert verified.subjects is not None
    assert [name.value for name in verified.subjects] == [URI]
    assert verified.chain == [leaf, issuer, root]


def test_a_leaf_starts_a_day_in_the_past_and_ends_after_its_days(chain: Chain) -> None:
    assert c.validity_s(chain.leaf(days=90)) == (NOW - 86_400, NOW + 90 * 86_400)


def test_a_leaf_does_not_outlive_its_issuer(chain: Chain) -> None:
    assert c.validity_s(chain.leaf(days=100_000))[1] == c.validity_s(chain.issuer)[1]


def test_certificates_can_be_made_on_a_machine_whose_clock_begins_in_1970() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    assert c.validity_s(c.build_root(key, now=0.0, random=b"r" * 20))[0] == -86_400


def test_the_spki_hash_is_sha_256_of_the_key_as_it_stands_in_the_certificate(chain: Chain) -> None:
    der = chain.leaf()
    key = x509.load_der_x509_certificate(der).public_key()
    spki = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert spki in der
    assert c.spki_sha256(der) == hashlib.sha256(spki).digest()


# --- the names


WRONG_URIS = {
    "upper-case scheme": URI.replace("spiffe", "SPIFFE"),
    "upper-case mesh": URI.replace(MESH.hex(), MESH.hex().upper()),
    "upper-case node": URI.replace(NODE, NODE.upper()),
    "port": URI.replace(f"{MESH.hex()}/", f"{MESH.hex()}:443/"),
    "user": URI.replace("spiffe://", "spiffe://me@"),
    "query": f"{URI}?x=1",
    "fragment": f"{URI}#x",
    "percent encoding": URI.replace("/node/", "/n%6Fde/"),
    "trailing slash": f"{URI}/",
    "trailing newline": f"{URI}\n",
    "doubled slash": URI.replace("/node/", "//node/"),
    "dot segment": URI.replace("/node/", "/./node/"),
    "one digit short": URI[:-1],
    "one digit more": f"{URI}0",
    "other path": URI.replace("/node/", "/user/"),
    "https": URI.replace("spiffe", "https"),
    "empty": "",
}


@pytest.mark.parametrize("what", WRONG_URIS)
def test_a_uri_that_is_not_exactly_the_one_form_is_refused(what: str) -> None:
    assert "URI" in refused(forge(names=(names(WRONG_URIS[what]), True)))


def test_two_uris_are_refused() -> None:
    assert "exactly one" in refused(forge(names=(names(URI, URI), True)))


def test_an_extra_dns_name_is_refused() -> None:
    both = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(URI), x509.DNSName("example.org")])
    assert "exactly one" in refused(forge(names=(both, True)))


def test_a_dns_name_in_place_of_the_uri_is_refused() -> None:
    assert "exactly one" in refused(forge(names=(x509.SubjectAlternativeName([x509.DNSName(URI)]), True)))


def test_a_non_critical_name_is_refused() -> None:
    assert "not critical" in refused(forge(names=(names(URI), False)))


def test_no_name_is_refused() -> None:
    assert "no subjectAltName" in refused(forge(names=None))


def test_a_subject_is_refused() -> None:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NODE)])
    assert "subject is not empty" in refused(forge(subject=subject))


def test_another_mesh_is_refused() -> None:
    assert "another mesh" in refused(forge(), bytes(32))


# --- the rest of the profile


@pytest.mark.parametrize("path_length", [None, 0])
def test_an_authoritys_certificate_is_no_nodes(path_length: int | None) -> None:
    constraints = x509.BasicConstraints(ca=True, path_length=path_length)
    assert "CA:true" in refused(forge(constraints=(constraints, True)))


def test_missing_constraints_are_refused() -> None:
    assert "no basicConstraints" in refused(forge(constraints=None))


def test_non_critical_constraints_are_refused() -> None:
    assert "not critical" in refused(forge(constraints=(x509.BasicConstraints(False, None), False)))


@pytest.mark.parametrize(
    "wanted", [(), ("key_agreement",), ("digital_signature", "key_cert_sign"), ("digital_signature", "crl_sign")]
)
def test_another_key_usage_is_refused(wanted: tuple[str, ...]) -> None:
    assert "keyUsage" in refused(forge(usage=(usage(*wanted or ("data_encipherment",)), True)))


def test_a_missing_or_non_critical_key_usage_is_refused() -> None:
    assert "no keyUsage" in refused(forge(usage=None))
    assert "not critical" in refused(forge(usage=(usage("digital_signature"), False)))


@pytest.mark.parametrize(
    "usages",
    [
        [ExtendedKeyUsageOID.SERVER_AUTH],
        [ExtendedKeyUsageOID.CLIENT_AUTH],
        [*SERVER_AND_CLIENT, ExtendedKeyUsageOID.CODE_SIGNING],
    ],
)
def test_another_extended_usage_is_refused(usages: list[x509.ObjectIdentifier]) -> None:
    assert "extendedKeyUsage" in refused(forge(extended=(x509.ExtendedKeyUsage(usages), False)))


def test_a_missing_extended_usage_is_refused() -> None:
    assert "extendedKeyUsage" in refused(forge(extended=None))


OTHER_KEYS: dict[str, Callable[[], Any]] = {
    "P-384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "secp256k1": lambda: ec.generate_private_key(ec.SECP256K1()),
    "Ed25519": ed25519.Ed25519PrivateKey.generate,
    "RSA": lambda: rsa.generate_private_key(65537, 2048),
}


@pytest.mark.parametrize("kind", OTHER_KEYS)
def test_another_kind_of_key_is_refused(kind: str) -> None:
    assert "not ECDSA P-256" in refused(forge(key=OTHER_KEYS[kind]()))


def test_name_constraints_are_refused() -> None:
    constraint = x509.NameConstraints(permitted_subtrees=[x509.DNSName("example.org")], excluded_subtrees=None)
    assert "name constraints" in refused(forge(add=((constraint, False),)))


def test_an_unknown_critical_extension_is_refused_and_an_unknown_other_one_is_not() -> None:
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.55555.1"), b"\x05\x00")
    assert "unknown critical" in refused(forge(add=((unknown, True),)))
    assert c.check_leaf_untrusted(forge(add=((unknown, False),)), MESH) == NODE


def test_bytes_behind_the_certificate_are_refused() -> None:
    assert "cannot be read" in refused(forge() + b"\x00")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("serial", [b"\x00", b"\xf9"])
def test_a_serial_number_that_is_not_positive_is_refused(serial: bytes) -> None:
    der = forge()
    at = der.index(b"\x02\x01\x07")  # INTEGER 7, the serial
    assert "positive" in refused(der[:at] + b"\x02\x01" + serial + der[at + 3 :])


def test_what_the_library_only_warns_of_is_refused_where_warnings_are_errors() -> None:
    der = forge()
    at = der.index(b"\x02\x01\x07")
    assert "cannot be read" in refused(der[:at] + b"\x02\x01\xf9" + der[at + 3 :])


def test_a_key_written_as_a_compressed_point_is_refused_since_its_spki_would_have_two_hashes() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    public, der = key.public_key(), forge(key=key)
    info, x962 = serialization.PublicFormat.SubjectPublicKeyInfo, serialization.Encoding.X962
    whole = public.public_bytes(serialization.Encoding.DER, info)
    point = public.public_bytes(x962, serialization.PublicFormat.CompressedPoint)
    algorithm = whole[2:23]
    short = b"\x30" + bytes([len(algorithm) + 36]) + algorithm + b"\x03\x22\x00" + point
    assert whole in der
    changed = bytearray(der.replace(whole, short))
    for at in (2, 6):  # the lengths of the certificate and of what is signed in it
        length = int.from_bytes(changed[at : at + 2], "big") + len(short) - len(whole)
        changed[at : at + 2] = length.to_bytes(2, "big")
    loaded = x509.load_der_x509_certificate(bytes(changed)).public_key()
    assert loaded == public
    assert "uncompressed" in refused(bytes(changed))


def test_what_is_far_too_large_is_not_even_parsed() -> None:
    assert "larger" in refused(bytes(20_000))


# --- authorities


def test_root_and_issuer_have_their_profiles(chain: Chain) -> None:
    assert c.key_sha256(c.check_root_untrusted(chain.root)) == c.spki_sha256(chain.root)
    assert c.key_sha256(c.check_issuer_untrusted(chain.issuer)) == c.spki_sha256(chain.issuer)
    assert c.is_issued(chain.issuer, chain.root)
    assert c.is_issued(chain.leaf(), chain.issuer)


def test_a_leaf_is_neither_issuer_nor_root(chain: Chain) -> None:
    for check in (c.check_root_untrusted, c.check_issuer_untrusted):
        with pytest.raises(RemoteProtocolError):
            check(chain.leaf())


def test_a_root_is_no_issuer_and_an_issuer_is_no_root(chain: Chain) -> None:
    with pytest.raises(RemoteProtocolError, match="pathLen is 0"):
        c.check_issuer_untrusted(chain.root)
    with pytest.raises(RemoteProtocolError, match="pathLen 0"):
        c.check_root_untrusted(chain.issuer)


def test_a_root_that_another_key_signed_is_refused(chain: Chain) -> None:
    public, name = chain.root_key.public_key(), x509.load_der_x509_certificate(chain.root).subject
    builder = c._ca(name, name, public, public, None).serial_number(1)
    start = datetime.fromtimestamp(NOW, UTC)
    builder = builder.not_valid_before(start).not_valid_after(start + timedelta(days=1))
    forged = builder.sign(chain.issuer_key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
    with pytest.raises(RemoteProtocolError, match="not signed by"):
        c.check_root_untrusted(forged)


def test_who_did_not_sign_is_not_the_issuer(chain: Chain) -> None:
    assert not c.is_issued(chain.leaf(), chain.root)
    assert not c.is_issued(chain.root, chain.issuer)
    twin = c.build_issuer(
        ec.generate_private_key(ec.SECP256R1()).public_key(), NODE.raw, chain.root, chain.root_key, now=NOW, random=b"r"
    )
    assert not c.is_issued(chain.leaf(), twin)  # the same name, another key
    assert not c.is_issued(b"", chain.root)


# --- describe


def test_describe_tells_what_a_certificate_says(chain: Chain) -> None:
    der = chain.leaf()
    info = c.describe((pem.dump(pem.CERTIFICATE, der) + pem.dump(pem.CERTIFICATE, chain.issuer)).decode())
    assert info.node_id == NODE
    assert info.mesh_id == MESH.hex()
    assert (info.not_before, info.not_after) == (NOW - 86_400, NOW + 90 * 86_400)
    assert info.issuer == f"CN=bms issuer {NODE[:16]}"
    assert info.spki_sha256 == c.spki_sha256(der).hex()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no CERTIFICATE"),
        (pem.dump("BMS ADMISSION", b"x"), "no CERTIFICATE"),
        (pem.dump(pem.CERTIFICATE, b"x"), "cannot be read"),
        (pem.dump(pem.CERTIFICATE, forge(names=(names(URI, URI), True))), "exactly one"),
        ("-----BEGIN CERTIFICATE-----\nAA", "cut off"),
        ("\udcff", "no CERTIFICATE"),
    ],
)
def test_describe_refuses_with_the_reason(text: str | bytes, reason: str) -> None:
    with pytest.raises(RefusedError, match=reason):
        c.describe(text)
