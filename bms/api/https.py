"""The certificate of HTTPS: the operator's files, or one that the node makes for itself.

    `http.cert_path` given    that chain and key; looked at again when a connection comes, at most once a second, so
                              that whatever renews certificates need not know of this node. Files that are broken when
                              they change are logged once, and the certificate in force stays
    none given                a self-signed one: P-256, for localhost, this machine's name and addresses and the address
                              listened at; kept in the node's folder (`https/cert.pem` and `key.pem`, 0600), made anew
                              when a third of its life is left or a name is missing. Its fingerprint is logged:
                              that is what people compare, since no browser knows it

`http.client_ca_path` asks clients for a certificate that one of those has issued. TLS 1.2 and 1.3, suites with forward
secrecy and authenticated encryption, no renegotiation, no compression, no resumption: a ticket would outlive what is
taken back (RFC 9325). A context in use is never changed; a new one takes its place.
"""

from __future__ import annotations

import hashlib
import ipaddress
import logging
import os
import socket
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import attrs
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ..config import Config
from ..config.settings import TLS_SUITES
from ..errors import ConfigError
from ..net.tls import TlsSocket, load_chain
from ..security.disk import finish_replacing, read_file, replace_files, write_folder

__all__ = ["Certificates", "fingerprint", "make_certificate"]

log = logging.getLogger("bms.api")

LIFE = timedelta(days=365)
_LOOK_S = 1.0
_RENEW_SHARE = 3
_SKEW = timedelta(days=1)
_FOLDER, _CERT, _KEY = "https", "cert.pem", "key.pem"


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of a certificate as browsers show it."""
    return hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).digest().hex(":").upper()


def make_certificate(names: set[str], now: datetime) -> tuple[bytes, bytes]:
    """A self-signed certificate for host names and addresses, and its key, both PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bms node")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + LIFE)
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in sorted(names)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM), private


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _names_of(certificate: x509.Certificate) -> set[str]:
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {str(name) for kind in (x509.DNSName, x509.IPAddress) for name in names.get_values_for_type(kind)}


def _own_names(hosts: list[str]) -> set[str]:
    """What this machine is called, as far as a certificate can say it."""
    names = {"localhost", "127.0.0.1", "::1"}
    for name in (socket.gethostname(), *hosts):
        plain = name.partition("%")[0]
        if plain and plain.isascii() and len(plain) < 254 and "*" not in plain:
            names.add(plain)
    return names


@attrs.frozen
class _Stamp:
    """A file as it was when it was read: other bytes show as another one."""

    inode: int
    size: int
    changed: int

    @classmethod
    def of(cls, path: Path) -> _Stamp | None:
        try:
            found = os.stat(path)
        except OSError:
            return None
        return cls(found.st_ino, found.st_size, found.st_mtime_ns)


class Certificates:
    """The TLS context in force, for one configuration. Raises ConfigError when it is made of files that are broken."""

    def __init__(
        self, config: Config, folder: Path | None, hosts: Callable[[], list[str]], wall_time: Callable[[], float]
    ) -> None:
        self._config = config
        self._folder = None if folder is None else folder / _FOLDER
        self._hosts = hosts
        self._wall_time = wall_time
        self._own: tuple[bytes, bytes] | None = None
        self._own_until = 0.0
        self._looked_at = trio.current_time()
        self._stamps = self._look()
        self.fingerprint = ""
        self._context = self._make()

    def context(self) -> ssl.SSLContext:
        """The context in force: of the files as they are now."""
        now = trio.current_time()
        if now - self._looked_at >= _LOOK_S:
            self._looked_at = now
            stamps = self._look()
            if stamps != self._stamps or (self._own is not None and self._wall_time() >= self._own_until):
                self._stamps = stamps
                self._take_up()
        return self._context

    def _take_up(self) -> None:
        try:
            self._context = self._make()
        except ConfigError as error:
            log.error("the certificate of HTTPS in force stays: %s", error)
        else:
            log.info("HTTPS shows another certificate, SHA-256 %s", self.fingerprint)

    def _look(self) -> list[_Stamp | None]:
        http = self._config.http
        return [_Stamp.of(path) for path in (http.cert_path, http.key_path, http.client_ca_path) if path is not None]

    def _make(self) -> ssl.SSLContext:
        http = self._config.http
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.sslsocket_class = TlsSocket
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
        context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
        context.num_tickets = 0
        suites = self._config.tls_ciphers
        if suites == ():
            context.minimum_version = ssl.TLSVersion.TLSv1_3
        else:
            context.set_ciphers(":".join(TLS_SUITES[name] for name in suites or TLS_SUITES))
        context.set_alpn_protocols(["h2", "http/1.1"])
        if http.cert_path is not None and http.key_path is not None:
            self._load_files(context, http.cert_path, http.key_path)
        else:
            self._load_own(context)
        if http.client_ca_path is not None:
            self._load_client_roots(context, http.client_ca_path)
        return context

    def _load_files(self, context: ssl.SSLContext, cert_path: Path, key_path: Path) -> None:
        cert, key = read_file(cert_path, "http.cert_path"), read_file(key_path, "http.key_path")
        try:
            chain = x509.load_pem_x509_certificates(cert)
        except ValueError as error:
            raise ConfigError("http.cert_path", str(cert_path), f"{cert_path} is no certificate in PEM") from error
        try:
            serialization.load_pem_private_key(key, None)
        except (TypeError, ValueError) as error:  # TypeError: it is encrypted
            why = f"{key_path} is no private key in PEM, or it is encrypted"
            raise ConfigError("http.key_path", str(key_path), why) from error
        try:
            load_chain(context, cert, key)
        except OSError as error:
            why = f"{key_path} is not the key of {cert_path}, or OpenSSL refuses them: {error.strerror or error}"
            raise ConfigError("http.key_path", str(key_path), why) from error
        self._own = None
        self.fingerprint = fingerprint(chain[0])
        if chain[0].not_valid_after_utc.timestamp() <= self._wall_time():
            log.warning("the certificate in %s has expired: clients will refuse it", cert_path)

    def _load_client_roots(self, context: ssl.SSLContext, path: Path) -> None:
        pem = read_file(path, "http.client_ca_path")
        try:
            context.load_verify_locations(cadata=pem.decode("ascii"))
        except (OSError, ValueError) as error:
            raise ConfigError("http.client_ca_path", str(path), f"{path} holds no certificates in PEM") from error
        context.verify_mode = ssl.CERT_REQUIRED

    def _load_own(self, context: ssl.SSLContext) -> None:
        try:
            hosts = self._hosts()
        except OSError as error:  # no file handle is left: the certificate there is will do
            log.debug("this machine's addresses cannot be read: %s", error)
            hosts = []
        names = _own_names(hosts)
        stored = self._stored(names)
        if stored is None:
            stored = make_certificate(names, datetime.fromtimestamp(self._wall_time(), UTC))
            self._store(*stored)
        self._own = stored
        load_chain(context, *stored)
        certificate = x509.load_pem_x509_certificate(stored[0])
        self._own_until = certificate.not_valid_after_utc.timestamp() - LIFE.total_seconds() / _RENEW_SHARE
        self.fingerprint = fingerprint(certificate)

    def _store(self, cert: bytes, key: bytes) -> None:
        if self._folder is None:
            return
        files = {_CERT: cert, _KEY: key}
        try:
            if self._folder.is_dir():
                replace_files(self._folder, files)
            else:
                write_folder(self._folder, files)
        except OSError as error:
            log.warning("the certificate of HTTPS cannot be kept in %s: %s", self._folder, error.strerror)

    def _stored(self, names: set[str]) -> tuple[bytes, bytes] | None:
        """The one that was made before, if it still serves."""
        stored = self._own
        if stored is None and self._folder is not None and self._folder.is_dir():
            try:
                finish_replacing(self._folder)
                stored = read_file(self._folder / _CERT, "http.cert_path"), read_file(self._folder / _KEY, "")
            except (ConfigError, OSError):
                return None
        if stored is None:
            return None
        try:
            certificate = x509.load_pem_x509_certificate(stored[0])
            key = serialization.load_pem_private_key(stored[1], None)
            known = _names_of(certificate)
        except (ValueError, TypeError, x509.ExtensionNotFound):
            return None
        until = certificate.not_valid_after_utc.timestamp() - LIFE.total_seconds() / _RENEW_SHARE
        fits = key.public_key() == certificate.public_key() and names <= known
        return stored if fits and self._wall_time() < until else None
