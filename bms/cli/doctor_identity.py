"""What `bms doctor` looks at in certificates: the node's own, and that of HTTPS if another is configured.

They are read as the node would read them, so what is wrong is said in the node's own words. Nothing is made or renewed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from cryptography import x509

from ..errors import ConfigError
from ..security.identity import AUTHORITY, FOLDER, identity_paths, load_identity_files
from .doctor_finding import OK, PROBLEM, WARNING, Finding, Patient

__all__ = ["certificates"]

_DAY_S = 86_400
_SOON_S = 14 * _DAY_S


def certificates(patient: Patient) -> Iterator[Finding]:
    """Whether they are there, belong together, are private, and for how long they hold."""
    yield from _node(patient)
    yield from _https(patient)


def _until(moment: float) -> str:
    day = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(moment))
    return f"{day} ({(moment - time.time()) / _DAY_S:.0f} days)"


def _node(patient: Patient) -> Iterator[Finding]:
    config, folder = patient.config, patient.folder
    paths = identity_paths(config, folder)
    if not paths:
        yield Finding("certificates", OK, "the identity is in memory alone")
        return
    if not any(path.exists() for path in paths):
        if config.dev_mode or config.found_mesh:
            yield Finding("certificates", OK, "this node has no identity yet; its first start makes one")
        else:
            advice = "have one issued where the mesh was founded (`bms identity issue`), or start with --found or --dev"
            yield Finding("certificates", PROBLEM, f"there is no identity: no {paths[0]}", advice)
        return
    try:
        key_path, cert_path, trust_path = paths
        identity = load_identity_files(key_path, cert_path, trust_path, time.time())
    except ConfigError as error:
        yield Finding("certificates", PROBLEM, error.why, "see `bms identity issue --help` for new files")
        return
    text = f"node {identity.node_id.short}: valid until {_until(identity.not_after)}"
    renews = config.dev_mode or (folder is not None and (folder / FOLDER / AUTHORITY).exists())
    if time.time() < identity.not_before:
        advice = "set this machine's clock if it is wrong"
        yield Finding("certificates", PROBLEM, f"node {identity.node_id.short}: not valid yet", advice)
    elif identity.not_after - time.time() < _SOON_S and not renews:
        advice = "have new files issued (`bms identity issue`) and put them in place; a running node takes them up"
        yield Finding("certificates", WARNING, text, advice)
    else:
        yield Finding("certificates", OK, text + (", renewed by itself" if renews else ""))


def _https(patient: Patient) -> Iterator[Finding]:
    http = patient.config.http
    if http.cert_path is None or http.key_path is None:
        return
    for path in (http.cert_path, http.key_path):
        try:
            content = path.read_bytes()
        except OSError as error:
            yield Finding(
                "certificates", PROBLEM, f"HTTPS: {path} cannot be read: {error.strerror}", "see http.cert_path"
            )
            return
        if path == http.cert_path:
            try:
                certificate = x509.load_pem_x509_certificates(content)[0]
            except ValueError as error:
                yield Finding("certificates", PROBLEM, f"HTTPS: {path} is no certificate: {error}", "give a PEM file")
                return
            end = certificate.not_valid_after_utc.timestamp()
            left, text = end - time.time(), f"HTTPS: {path} is valid until {_until(end)}"
            status = PROBLEM if left <= 0 else WARNING if left < _SOON_S else OK
            advice = "" if status == OK else "have it renewed; the node takes a new file up by itself"
            yield Finding("certificates", status, text, advice)
