"""Where a remote node is, how it is known to be that node, and a connection to it.

TLS is always checked: by the system's authorities, by those of a file, or by the SHA-256 of the one certificate that is
expected, for nodes that have made their own. The last is looked at when the handshake is done and before a byte of a
request, and so a token, is sent. In clear goes only what stays on this machine, unless that is asked for.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import ssl
from pathlib import Path
from urllib.parse import urlsplit

import attrs
import trio

from ..errors import LocalProtocolError, MeshError, RefusedError, UnreachableError

__all__ = ["Place", "open_stream", "place_of", "unreachable"]

_NO_TLS = ("WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE")
"""What OpenSSL, by its version, calls an answer that is no TLS."""


@attrs.frozen
class Place:
    """Where the node is, and how it is known to be it."""

    scheme: str
    host: str
    port: int
    tls: ssl.SSLContext | None

    @property
    def authority(self) -> str:
        """As URLs and Host headers name it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def place_of(url: str, ca: str | Path | None, fingerprint: str | None, allow_plain: bool) -> Place:
    """What a URL and its options say; LocalProtocolError if that cannot work."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise LocalProtocolError(f"this is no URL: {url[:200]!r} ({error})") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise LocalProtocolError(f"a node's URL is https://host:port, not {url[:200]!r}")
    if parts.username is not None or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise LocalProtocolError(f"a node's URL is https://host:port and nothing behind it: {parts.hostname}")
    if parts.scheme == "https":
        return Place("https", parts.hostname, port or 443, _tls(ca, fingerprint))
    if ca is not None or fingerprint is not None:
        raise LocalProtocolError("a certificate is checked with https:// alone")
    if not (allow_plain or _is_loopback(parts.hostname)):
        raise LocalProtocolError(f"over http:// everybody on the way to {parts.hostname} reads the token: use https://")
    return Place("http", parts.hostname, port or 80, None)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


class _PinnedObject(ssl.SSLObject):
    """The end of a TLS connection that takes one certificate alone, whatever its names and its issuer."""

    expected = b""

    def do_handshake(self) -> None:
        """Before anything is sent that the other end should not see, it has shown the certificate."""
        super().do_handshake()
        shown = hashlib.sha256(self.getpeercert(binary_form=True) or b"").digest()
        if not hmac.compare_digest(shown, self.expected):
            raise ssl.SSLCertVerificationError(1, f"the certificate's fingerprint is {shown.hex()}")


def _tls(ca: str | Path | None, fingerprint: str | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=None if ca is None else str(ca))
    except (OSError, ssl.SSLError) as error:
        raise LocalProtocolError(f"{ca} cannot be used as a file of authorities: {error}") from error
    if fingerprint is not None:
        digits = fingerprint.strip().lower().removeprefix("sha256:").replace(":", "")
        if len(digits) != 64 or digits.strip("0123456789abcdef"):
            raise LocalProtocolError("a fingerprint is the SHA-256 of a certificate, 64 hexadecimal digits")
        if ca is None:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        context.sslobject_class = type("PinnedObject", (_PinnedObject,), {"expected": bytes.fromhex(digits)})
    return context


async def open_stream(place: Place) -> trio.SocketStream | trio.SSLStream[trio.SocketStream]:
    """Connect, and be sure of the other end. UnreachableError, RefusedError (it is somebody else)."""
    try:
        stream = await trio.open_tcp_stream(place.host, place.port)
        if place.tls is None:
            return stream
        secure = trio.SSLStream(stream, place.tls, server_hostname=place.host, https_compatible=True)
        try:
            await secure.do_handshake()
        except BaseException:
            await trio.aclose_forcefully(secure)
            raise
    except (OSError, trio.BrokenResourceError) as error:
        raise unreachable(place, error) from error
    return secure


def unreachable(place: Place, error: BaseException) -> MeshError:
    """What it means that a connection could not be made: RefusedError if that was the certificate's fault."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            why = cause.args[-1]  # of _PinnedObject: a fingerprint was given
            if found := getattr(cause, "verify_message", ""):
                why = f"{found}; name its certificate's SHA-256 (fingerprint), or the file of who issued it (ca)"
            return RefusedError(f"{place.authority} is not known to be that node: {why}")
        if isinstance(cause, ssl.SSLError):
            why = (cause.reason or "it failed").lower().replace("_", " ")
            hint = "; is it http://?" if cause.reason in _NO_TLS else ""
            return UnreachableError(f"{place.authority} was expected to speak TLS, which came to nothing: {why}{hint}")
        cause = cause.__cause__ or cause.__context__
    return UnreachableError(f"{place.authority} cannot be reached: {str(error) or type(error).__name__}")
