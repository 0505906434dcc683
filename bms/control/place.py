"""Where a node's control socket lies, who may use it, and that it is never taken from a live process.

    <folder>/control.sock         the socket, mode 0600 before anybody can connect
    <folder>/control.sock.lock    held with flock(2) as long as the socket is served

Whoever holds the lock owns the socket, so no probing decides: the lock ends with its process, however that ends, and a
socket file found while holding it is a dead process's and is replaced. The lock file itself stays, since removing it
would let two processes lock two files of one name.

The address of a Unix socket has room for about 107 bytes (`sun_path`, unix(7)). A longer path is reached through
/proc/self/fd where there is one (Linux); elsewhere the error says what to shorten.

Deliberately absent: abstract sockets (they have no file mode) and a socket for other users.
"""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ..errors import ConfigError, RefusedError, StoreError, UnreachableError

__all__ = ["SOCKET_NAME", "connect", "listening"]

SOCKET_NAME = "control.sock"

_SUN_PATH_BYTES = 107 if sys.platform == "linux" else 103
_BACKLOG = 64


@contextmanager
def _reachable(path: Path) -> Iterator[str]:
    """The path, or a short way to it that holds as long as the context."""
    if len(os.fsencode(path)) <= _SUN_PATH_BYTES:
        yield str(path)
        return
    if not Path("/proc/self/fd").is_dir():
        raise ConfigError(
            "persistence_path",
            str(path),
            f"the path of a socket has at most {_SUN_PATH_BYTES} bytes here: use a shorter one",
        )
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = path.with_name(path.name + ".lock")
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip() or "unknown"
            raise StoreError(
                f"{path} is served by process {holder}: stop it, or give this node another folder"
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _bound(path: Path) -> socket.socket:
    """A socket bound to `path` in place of a dead process's; not listening yet. The lock is held."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise StoreError(f"{path} is in the way: it is no socket; move it elsewhere")
        path.unlink()
    except FileNotFoundError:
        pass
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _reachable(path) as address:
            listener.bind(address)
    except BaseException:
        listener.close()
        raise
    return listener


@contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    """A listening socket at `path`, removed at the end. Its folder is made if need be.

    Raises `StoreError` where another process serves it or the folder does not allow it; then nothing was changed.
    """
    with ExitStack() as stack:
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            stack.enter_context(_locked(path))
            listener = stack.enter_context(_bound(path))
            stack.callback(path.unlink, missing_ok=True)
            path.chmod(0o600)  # nobody can connect before `listen`
            listener.listen(_BACKLOG)
        except OSError as error:
            raise StoreError(f"the control socket {path} cannot be made: {error.strerror or error}") from error
        yield listener


def connect(path: Path) -> socket.socket:
    """A connected, non-blocking socket; a Unix socket connects at once or not at all.

    Raises `UnreachableError` where no node serves it, `RefusedError` where it is another user's.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        with _reachable(path) as address:
            sock.connect(address)
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError) as error:
        sock.close()
        raise UnreachableError(f"no node is running in {path.parent}: start one with `bms up`") from error
    except PermissionError as error:
        sock.close()
        raise RefusedError(f"the node in {path.parent} belongs to another user") from error
    except OSError as error:
        sock.close()
        raise UnreachableError(f"the node in {path.parent} does not answer: {error.strerror or error}") from error
    except BaseException:
        sock.close()
        raise
    return sock
