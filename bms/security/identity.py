"""This node's identity: its keys, the files that hold them, and how a starting node comes by one.

    folder/identity/            made at once, or not there          (disk.write_folder)
        key.pem cert.pem trust.pem
        authority/              only where this node founded the mesh
    home/MESH/dev-authority/    dev_mode: shared by all nodes of that mesh name on this machine

How it is found, first match: (1) `cert_path`, `key_path` and `trust_path`; (2) the stored one; (3) `dev_mode`: the dev
authority issues one, and is made by whichever node comes first; (4) `found_mesh`: this node makes the mesh's authority
and admits itself; otherwise a ConfigError names the ways there are.

An identity is loaded only if it agrees with itself: the TLS key is the certificate's, node key, certificate and
admission name one node, and certificate and admission are by an issuer of the bundle that counts. So what a node shows
to others was believable to itself. A stored certificate that has lived 2/3 of its life is renewed, with a fresh TLS
key, where an authority is at hand; the node's own keys and its admission stay. One in memory is renewed while the node
runs.

Deliberately absent, for now: tickets, and renewal over the network.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import attrs
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, x25519

from ..config import Config
from ..errors import ConfigError, RefusedError, RemoteProtocolError
from ..values import NodeId
from . import disk, pem
from .authority import Authority, IdentityFiles
from .bundle import Bundle
from .certificates import LEAF_DAYS, is_issued, key_sha256, spki_sha256, validity_s
from .keys import BoxKey, NodeKey, TlsKey
from .pemfile import PemFile
from .records import MEMBER_GRANTS, Admission
from .trust import Trust

__all__ = [
    "Identity",
    "identity_paths",
    "issue_files",
    "load_identity_files",
    "load_or_make_identity",
    "reload_identity",
    "require_way",
]

log = logging.getLogger("bms.security")

FOLDER = "identity"
AUTHORITY = "authority"
DEV_AUTHORITY = "dev-authority"
_FILES = {"key_path": "key.pem", "cert_path": "cert.pem", "trust_path": "trust.pem"}
_RENEW_AFTER = 2 / 3

TokenBytes = Callable[[int], bytes]


@attrs.frozen(eq=False)
class Identity:
    """Who this node is, and the proofs of it.

    Times are Unix seconds; `leaf_spki` is the SHA-256 of the TLS key's SPKI; the PEM texts are the files, of which
    key.pem is secret; `authority` is there where this node founded its mesh.
    """

    mesh_id: bytes = attrs.field(repr=bytes.hex)
    node_id: NodeId
    node_key: NodeKey
    box_key: BoxKey
    admission: Admission = attrs.field(repr=False)
    bundle: Bundle = attrs.field(repr=False)
    key_pem: bytes = attrs.field(repr=False)
    cert_pem: bytes = attrs.field(repr=False)
    trust_pem: bytes = attrs.field(repr=False)
    leaf_spki: bytes = attrs.field(repr=False)
    not_before: float
    not_after: float
    authority: Authority | None = None

    @property
    def renew_at(self) -> float:
        """When 2/3 of its certificate's life are over."""
        return self.not_before + (self.not_after - self.not_before) * _RENEW_AFTER


# --- reading


def load_identity_files(key_path: Path, cert_path: Path, trust_path: Path, now: float) -> Identity:
    """The identity in three files; ConfigError that names key_path, cert_path or trust_path and says what to do."""
    identity = _read(key_path, cert_path, trust_path)
    _check_time(identity, cert_path, now)
    return identity


def _read(key_path: Path, cert_path: Path, trust_path: Path) -> Identity:
    """The identity in three files, expired or not."""
    keys = PemFile.read(key_path, "key_path", private=True)
    return _assemble(keys, PemFile.read(cert_path, "cert_path"), PemFile.read(trust_path, "trust_path"))


def _assemble(keys: PemFile, certificates: PemFile, trusted: PemFile) -> Identity:
    """Put the three together, and see that they belong together."""
    tls_key, node_key, box_key = _split_keys(keys)
    bundle = trusted.bundle()
    roots = {root.certificate_der for root in bundle.roots}
    if not trusted.all(pem.CERTIFICATE) or not set(trusted.all(pem.CERTIFICATE)) <= roots:
        raise trusted.wrong("its CERTIFICATE blocks are not the roots of its authority bundle")
    chain = certificates.all(pem.CERTIFICATE)
    if len(chain) != 2:
        raise certificates.wrong("it should hold two certificates: the node's, then its issuer's")
    trust = Trust(bundle)
    try:
        admission = trust.check_admission_untrusted(certificates.signed(pem.ADMISSION))
        node_id = trust.check_leaf_untrusted(chain[0])
        leaf_spki = spki_sha256(chain[0])
    except RemoteProtocolError as error:
        raise certificates.wrong(f"{error}; is it of the mesh of {trusted.path}?") from error
    if chain[1] not in {issuer.certificate_der for issuer in bundle.issuers} or not is_issued(*chain):
        raise certificates.wrong("its second certificate is not that of the first one's issuer in this mesh")
    if not node_id == admission.node_id == node_key.node_id:
        raise certificates.wrong(f"it is not of the node whose keys are in {keys.path}; take both from one node")
    if key_sha256(tls_key.public_key()) != leaf_spki:
        raise certificates.wrong(f"it is not for the TLS key in {keys.path}; take both from one node")
    return Identity(
        bundle.mesh_id,
        node_id,
        node_key,
        box_key,
        admission,
        bundle,
        keys.content,
        certificates.content,
        trusted.content,
        leaf_spki,
        *validity_s(chain[0]),
    )


def _split_keys(file: PemFile) -> tuple[TlsKey, NodeKey, BoxKey]:
    keys = file.private_keys()
    if len(keys) == 3:
        tls, node, box = keys
        match (tls, node, box):
            case ec.EllipticCurvePrivateKey(), ed25519.Ed25519PrivateKey(), x25519.X25519PrivateKey():
                return tls, NodeKey.from_seed(node.private_bytes_raw()), BoxKey(box.private_bytes_raw())
    raise file.wrong("its private keys are not TLS P-256, node Ed25519, box X25519, in this order")


def _check_time(identity: Identity, cert_path: Path, now: float) -> None:
    """Refuse what has expired. What is not valid yet is more likely a wrong clock, which may be set while we run."""
    if now >= identity.not_after:
        why = (
            f"the certificate in {cert_path} has expired: have the mesh's founder issue new files "
            "(bms identity issue), or set this machine's clock if it is wrong"
        )
        raise ConfigError("cert_path", str(cert_path), why)
    if now < identity.not_before:
        log.warning("the certificate in %s is not valid yet: is this machine's clock right?", cert_path)


def _from_files(files: IdentityFiles) -> Identity:
    """The identity of files that are kept in memory alone."""
    parts = {"key_path": files.key_pem, "cert_path": files.cert_pem, "trust_path": files.trust_pem}
    return _assemble(*(PemFile(Path(f"<{_FILES[field]}>"), field, content) for field, content in parts.items()))


def _stored(folder: Path) -> Identity | None:
    """The identity of a node's folder, if it has one."""
    place = folder / FOLDER
    disk.finish_replacing(place)
    missing = [field for field, name in _FILES.items() if not (place / name).exists()]
    if len(missing) == len(_FILES):
        return None
    if missing:
        path = place / _FILES[missing[0]]
        why = f"{path} is gone while others of this identity are there: restore it, or move {place} away"
        raise ConfigError(missing[0], str(path), why)
    return _read(*(place / name for name in _FILES.values()))


# --- finding


def load_or_make_identity(
    config: Config,
    folder: Path | None,
    *,
    home: Path,
    token_bytes: TokenBytes,
    wall_time: Callable[[], float],
) -> Identity:
    """The identity of the node that keeps its things in `folder` (None: in memory alone), as the module says.

    Raises ConfigError: nothing was made, or, if the disk failed, at most a whole identity.
    """
    now = wall_time()
    if config.cert_path is not None or config.key_path is not None or config.trust_path is not None:
        if config.cert_path is None or config.key_path is None or config.trust_path is None:
            raise ConfigError("cert_path", config.cert_path, "cert_path, key_path and trust_path go together")
        return load_identity_files(config.key_path, config.cert_path, config.trust_path, now)
    finder = _Finder(config, folder, home / config.mesh_name / DEV_AUTHORITY, token_bytes, now)
    if folder is None:
        return finder.find(None)
    with _disk_errors("persistence_path", folder), disk.locked(folder / "identity.lock"):
        return finder.find(_stored(folder))


def identity_paths(config: Config, folder: Path | None) -> list[Path]:
    """The files of the identity: those that are configured, or those in the node's folder; none for one in memory."""
    given = [path for path in (config.key_path, config.cert_path, config.trust_path) if path is not None]
    if given or folder is None:
        return given
    return [folder / FOLDER / name for name in _FILES.values()]


def reload_identity(
    current: Identity,
    config: Config,
    folder: Path | None,
    *,
    home: Path,
    token_bytes: TokenBytes,
    wall_time: Callable[[], float],
) -> Identity:
    """The identity of a running node as its files are now, renewed if it is time; `current` if they say the same.

    Raises ConfigError, and nothing was changed, if they are broken or not of this node, mesh and bundle. An identity in
    memory has no files: it is renewed if it is time, and otherwise stays as it is.
    """
    now = wall_time()
    finder = _Finder(config, folder, home / config.mesh_name / DEV_AUTHORITY, token_bytes, now)
    if config.key_path is not None and config.cert_path is not None and config.trust_path is not None:
        place = config.cert_path
        found = load_identity_files(config.key_path, place, config.trust_path, now)
    elif folder is None:
        return finder.renew_in_memory(current)
    else:
        place = folder / FOLDER / _FILES["cert_path"]
        with _disk_errors("persistence_path", folder), disk.locked(folder / "identity.lock"):
            found = finder.reload(_stored(folder))
    if found.mesh_id != current.mesh_id or found.node_id != current.node_id:
        raise ConfigError("cert_path", str(place), f"{place} is of another node or mesh than the one that runs")
    if found.bundle.body != current.bundle.body:
        why = "its authority bundle is another than the one in force: restart the node to use it"
        raise ConfigError("trust_path", str(config.trust_path or place.with_name("trust.pem")), why)
    if found.admission.serial < current.admission.serial:
        raise ConfigError("cert_path", str(place), f"the admission in {place} is older than the one in force")
    is_same = (found.key_pem, found.cert_pem, found.trust_pem) == (current.key_pem, current.cert_pem, current.trust_pem)
    return current if is_same else found


def require_way(config: Config, folder: Path | None) -> None:
    """Raise the ConfigError that names all ways to an identity, if there is none, before anything is made."""
    given = config.cert_path or config.key_path or config.trust_path
    stored = folder is not None and (folder / FOLDER).exists()
    if not (given or stored or config.dev_mode or config.found_mesh):
        raise _no_way()


def _no_way() -> ConfigError:
    why = (
        "this node has no identity yet. Choose one: dev_mode=True (for trying things out on this machine); "
        "cert_path, key_path and trust_path with files that the mesh's founder made (bms identity issue); "
        "a join ticket in bootstrap_nodes (comes in a later version); or found_mesh=True to start a new mesh"
    )
    return ConfigError("found_mesh", False, why)


@attrs.frozen
class _Finder:
    """What the ways to an identity have in common."""

    config: Config
    folder: Path | None
    dev_folder: Path
    token_bytes: TokenBytes
    now: float

    def find(self, stored: Identity | None) -> Identity:
        if self.config.dev_mode:
            return self._dev(stored)
        if stored is not None:
            return self._use(stored, self._own_authority())
        if self.config.found_mesh:
            return self._found()
        raise _no_way()

    def reload(self, stored: Identity | None) -> Identity:
        """The stored identity of a node that runs, renewed if it is time."""
        assert self.folder is not None
        if stored is None:
            place = self.folder / FOLDER
            raise ConfigError("persistence_path", str(self.folder), f"the identity is gone from {place}: restore it")
        if not self.config.dev_mode:
            return self._use(stored, self._own_authority())
        if not self.dev_folder.exists():
            return self._use(stored, None)
        return self._use(stored, Authority.load(self.dev_folder, token_bytes=self.token_bytes, field="dev_mode"))

    def _use(self, stored: Identity, authority: Authority | None) -> Identity:
        """A stored identity, renewed if it is time and an authority is at hand."""
        assert self.folder is not None
        place = self.folder / FOLDER
        if authority is not None and authority.mesh_id != stored.mesh_id:
            why = f"{place / AUTHORITY} is of another mesh than the identity beside it: move one of them away"
            raise ConfigError("persistence_path", str(self.folder), why)
        if authority is not None and self.now >= stored.renew_at:
            stored = self._renew(stored, authority, place)
        _check_time(stored, place / _FILES["cert_path"], self.now)
        founded = authority is not None and not self.config.dev_mode
        return attrs.evolve(stored, authority=authority) if founded else stored

    def _renew(self, stored: Identity, authority: Authority, place: Path) -> Identity:
        """A fresh TLS key and certificate; the old ones where that cannot be, since they may still be valid."""
        try:
            files = authority.issue_identity(
                stored.node_key, stored.box_key, now=self.now, admission=stored.admission
            ).files
            # The bundle stored with the node may be newer than the authority's.
            disk.replace_files(place, {name: files[name] for name in ("key.pem", "cert.pem")})
        except (RefusedError, OSError) as error:
            log.warning("the certificate in %s could not be renewed: %s", place, error)
            return stored
        log.info("renewed the certificate of node %s", stored.node_id.short)
        return _read(*(place / name for name in _FILES.values()))

    def renew_in_memory(self, current: Identity) -> Identity:
        """An identity without files, renewed if it is time: by its own authority, or by that of this machine."""
        if self.now < current.renew_at:
            return current
        try:
            authority = current.authority or Authority.load(
                self.dev_folder, token_bytes=self.token_bytes, field="dev_mode"
            )
            if authority.mesh_id != current.mesh_id:
                raise RefusedError(f"the authority in {self.dev_folder} is of another mesh by now")
            files = authority.issue_identity(
                current.node_key, current.box_key, now=self.now, admission=current.admission
            )
        except (RefusedError, ConfigError) as error:  # it may still be valid
            log.warning("the certificate of node %s could not be renewed: %s", current.node_id.short, error)
            return current
        log.info("renewed the certificate of node %s", current.node_id.short)
        renewed = _from_files(attrs.evolve(files, trust_pem=current.trust_pem))
        return attrs.evolve(renewed, authority=current.authority)

    def _own_authority(self) -> Authority | None:
        if self.folder is None:
            return None
        place = self.folder / FOLDER / AUTHORITY
        return Authority.load(place, token_bytes=self.token_bytes) if (place / "issuer.pem").exists() else None

    def _found(self) -> Identity:
        """Make the mesh's authority, unless it is there already, and admit this node."""
        authority = self._own_authority()
        made = authority is None
        if authority is None:
            authority = Authority.create(token_bytes=self.token_bytes, now=self.now)
        secrets = {f"{AUTHORITY}/{name}": content for name, content in authority.files.items()} if made else {}
        identity = self._make(authority, secrets)
        log.info("node %s founded mesh %s", identity.node_id.short, identity.mesh_id.hex()[:8])
        return attrs.evolve(identity, authority=authority)

    def _dev(self, stored: Identity | None) -> Identity:
        """An identity of this machine's throw-away authority."""
        if stored is not None and not self.dev_folder.exists():
            raise self._other_mesh(f"the dev authority that made it is gone from {self.dev_folder}")
        authority = self._dev_authority()
        mesh = authority.mesh_id.hex()[:8]
        log.warning(
            "dev_mode: mesh %s trusts a throw-away authority in %s: whoever reads that may join; never in production",
            mesh,
            self.dev_folder,
        )
        if stored is None:
            return self._make(authority, {})
        if stored.mesh_id != authority.mesh_id:
            raise self._other_mesh(f"it is of mesh {stored.mesh_id.hex()[:8]}, the dev authority's is {mesh}")
        return self._use(stored, authority)

    def _other_mesh(self, reason: str) -> ConfigError:
        assert self.folder is not None
        why = (
            f"{self.folder / FOLDER} holds an identity that dev_mode cannot use: {reason}. Leave out dev_mode to use "
            "that identity; or give another node_name or persistence_path; or move the folder away to start anew"
        )
        return ConfigError("dev_mode", True, why)

    def _dev_authority(self) -> Authority:
        """The dev authority of this mesh name, made by whoever holds the lock first."""
        folder = self.dev_folder
        if self.folder == folder:
            raise ConfigError("node_name", self.config.node_name, f"{folder.name} is the dev authority's name")
        with _disk_errors("dev_mode", folder):
            if not folder.exists():
                with disk.locked(folder.with_name(f"{DEV_AUTHORITY}.lock")):
                    if not folder.exists():
                        Authority.create(token_bytes=self.token_bytes, now=self.now).save(folder)
        return Authority.load(folder, token_bytes=self.token_bytes, field="dev_mode")

    def _make(self, authority: Authority, secrets: dict[str, bytes]) -> Identity:
        """New keys, admitted by `authority`, stored (together with `secrets`) where this node has a folder."""
        node_key, box_key = NodeKey.generate(self.token_bytes), BoxKey.generate(self.token_bytes)
        files = authority.issue_identity(node_key, box_key, now=self.now)
        if self.folder is not None:
            place = self.folder / FOLDER
            if place.exists() and not secrets:  # it may hold the authority
                disk.replace_files(place, files.files)
            else:
                disk.write_folder(place, files.files | secrets)
        return _from_files(files)


def issue_files(
    folder_of_founder: Path,
    out_dir: Path,
    *,
    node_name: str,
    token_bytes: TokenBytes,
    wall_time: Callable[[], float],
    role: str = "member",
    grants: Sequence[tuple[str, int]] = MEMBER_GRANTS,
    days: float = LEAF_DAYS,
) -> NodeId:
    """Make a new node's three files in `out_dir`, which is new or empty, to be carried to that node's machine.

    `folder_of_founder` is the folder of the node that founded the mesh; `node_name` is for the log alone. Raises
    ConfigError (nothing was made) and RefusedError if the authority there may sign nothing new.
    """
    place = folder_of_founder / FOLDER / AUTHORITY
    if not (place / "issuer.pem").exists():
        why = f"no authority in {place}: run this where the mesh was founded (found_mesh)"
        raise ConfigError("persistence_path", str(folder_of_founder), why)
    if out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        raise ConfigError("out", str(out_dir), f"{out_dir} is there and not empty: give a new folder")
    now = wall_time()
    with _disk_errors("out", out_dir), disk.locked(folder_of_founder / "identity.lock"):
        authority = Authority.load(place, token_bytes=token_bytes)
        node_key, box_key = NodeKey.generate(token_bytes), BoxKey.generate(token_bytes)
        files = authority.issue_identity(node_key, box_key, now=now, days=days, role=role, grants=grants)
        disk.write_folder(out_dir, files.files)
    log.info("issued an identity for %s, node %s, in %s", node_name, node_key.node_id.short, out_dir)
    return node_key.node_id


@contextmanager
def _disk_errors(field: str, path: Path) -> Iterator[None]:
    """What the disk refuses is a setting's fault: the place is wrong, full or not ours."""
    try:
        yield
    except OSError as error:
        raise ConfigError(field, str(path), f"cannot use {error.filename or path}: {error.strerror}") from error
