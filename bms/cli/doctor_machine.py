"""What `bms doctor` looks at on this machine: versions, disk, file handles, locks, the clock's service.

Reading only, with two exceptions that leave nothing: a scratch file shows that a folder can be written. Locks are not
tried, since trying one takes it from a node that starts just then: the kernel's list (/proc/locks, Linux) says who
holds what. Where there is no /proc, what it would say is left out.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import shutil
import ssl
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from ..control import SOCKET_NAME
from .doctor_finding import OK, PROBLEM, WARNING, Finding, Patient
from .output import size_text

__all__ = ["clock_service", "disk", "handles", "leftovers", "versions"]

_PYTHONS = ((3, 11), (3, 14))
_DISK_PROBLEM, _DISK_WARNING = 64 << 20, 1 << 30
_HANDLES_BESIDE = 128  # the store, logs, HTTP, and what a program opens itself
_REMOTE_FILE_SYSTEMS = ("nfs", "cifs", "smb", "9p", "fuse.sshfs", "glusterfs", "ceph", "lustre", "afs")
_TIME_ERROR = 5  # adjtimex(2): nothing keeps the clock
_LOCKS = (SOCKET_NAME + ".lock", "data.sqlite.lock")


def versions(patient: Patient) -> Iterator[Finding]:
    """What runs here, and whether a running node is of the installed version."""
    import apsw

    low, high = _PYTHONS
    python = ".".join(map(str, sys.version_info[:3]))
    try:
        installed = metadata.version("bellande-mesh-sync")
    except metadata.PackageNotFoundError:
        installed = "from a source tree"
    library = ssl.OPENSSL_VERSION.partition(" ")[2].split()[0]
    text = f"bms {installed}, Python {python}, SQLite {apsw.sqlite_lib_version()}, OpenSSL {library}"
    if low <= sys.version_info[:2] < high:
        yield Finding("versions", OK, text)
    else:
        wanted = f"{low[0]}.{low[1]} to {high[0]}.{high[1] - 1}"
        yield Finding("versions", WARNING, text, f"bms is tested with Python {wanted}: use one of those")
    if not ssl.HAS_TLSv1_3:
        yield Finding("versions", PROBLEM, "this Python's OpenSSL has no TLS 1.3", "use a Python that has")
    status = patient.status
    if status is not None and status.version != installed and "unknown" not in (status.version, installed):
        what = f"the node runs version {status.version}, installed is {installed}"
        yield Finding("versions", WARNING, what, "restart the node to use what is installed")


# ---------------------------------------------------------------------- disk


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _file_system(path: Path) -> str:
    """The type of the file system that a path is on, as Linux names it; empty where it is not known."""
    best, kind = "", ""
    try:
        lines = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return ""
    real = str(path.resolve())
    for line in lines:
        _, place, found, *_ = line.split(" ")
        place = place.replace("\\040", " ")
        if (real == place or real.startswith(place.rstrip("/") + "/")) and len(place) >= len(best):
            best, kind = place, found
    return kind


def disk(patient: Patient) -> Iterator[Finding]:
    """Whether the node's folder can be written, how much room there is, and what it lies on."""
    folder = patient.folder
    if folder is None:
        yield Finding("disk", OK, "this node keeps everything in memory")
        return
    place = _existing(folder)
    if not place.is_dir():
        yield Finding("disk", PROBLEM, f"{place} is in the way: it is no folder", "move it, or set persistence_path")
        return
    try:
        with tempfile.TemporaryFile(dir=place) as scratch:
            scratch.write(b"x")
            scratch.flush()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            advice = "make room, or give the node a folder on another disk (persistence_path, BMS_HOME)"
        else:
            advice = f"make it writable for {_user()}, or give the node another folder (persistence_path, BMS_HOME)"
        yield Finding("disk", PROBLEM, f"{place} cannot be written: {error.strerror}", advice)
        return
    free = shutil.disk_usage(place).free
    text = f"{folder}: writable, {size_text(free)} free"
    if free < _DISK_PROBLEM:
        yield Finding("disk", PROBLEM, text, "make room: writes are refused when it is full")
    elif free < _DISK_WARNING:
        yield Finding("disk", WARNING, text, "make room before it is full")
    else:
        yield Finding("disk", OK, text)
    if os.statvfs(place).f_favail == 0 and os.statvfs(place).f_files > 0:
        yield Finding("disk", PROBLEM, f"the file system of {place} has no inode left", "remove files")
    kind = _file_system(place)
    if kind.startswith(_REMOTE_FILE_SYSTEMS):
        what = f"{place} is on a network file system ({kind})"
        yield Finding("disk", WARNING, what, "use a local disk: SQLite needs locks that work, and fsync that is true")
    if folder.is_dir() and folder.stat().st_mode & 0o077:
        what = f"{folder} is open to other users of this machine"
        yield Finding("disk", WARNING, what, f"chmod 700 {folder}: keys and data lie in it")


def _user() -> str:
    return f"user {os.getuid()}"


# ---------------------------------------------------------------------- handles


def _limit_of(pid: int) -> int | None:
    """How many handles a process may have open; None where that cannot be read."""
    try:
        lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("Max open files"):
            soft = line.split()[3]
            return int(soft) if soft.isdecimal() else None
    return None


def handles(patient: Patient) -> Iterator[Finding]:
    """Whether the limit of open files allows for as many links as are configured, and how near it is."""
    needed = patient.config.max_connections + _HANDLES_BESIDE
    used: int | None = None
    if patient.status is None:
        limit: int | None = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        limit = None if limit == resource.RLIM_INFINITY else limit
    else:
        limit = _limit_of(patient.status.pid)
        try:
            used = len(os.listdir(f"/proc/{patient.status.pid}/fd"))
        except OSError:
            pass  # another user's, or no /proc
    if limit is None:
        yield Finding("handles", OK, "no limit of open files")
        return
    text = f"{limit:,} open files are allowed" + ("" if used is None else f", {used:,} are open")
    advice = f"raise it to {needed:,} (`ulimit -n`, or LimitNOFILE= of a service), or lower max_connections"
    if used is not None and used > limit * 0.9:
        yield Finding("handles", PROBLEM, text, advice)
    elif limit < needed:
        yield Finding("handles", WARNING, f"{text}; {needed:,} may be needed", advice)
    else:
        yield Finding("handles", OK, text)


# ---------------------------------------------------------------------- locks and sockets


def _holders() -> dict[tuple[int, int], int] | None:
    """Who holds flock(2)'s lock of which file (device, inode); None where the kernel does not say."""
    try:
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return None
    found = {}
    for line in lines:
        fields = line.split()
        if len(fields) >= 8 and fields[1] == "FLOCK":
            major, minor, inode = fields[5].split(":")
            found[os.makedev(int(major, 16), int(minor, 16)), int(inode)] = int(fields[4])
    return found


def _holder(path: Path, holders: dict[tuple[int, int], int]) -> int | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return holders.get((found.st_dev, found.st_ino))


def leftovers(patient: Patient, answering: set[Path]) -> Iterator[Finding]:
    """What ended processes have left in the folders of nodes, and processes that hold one and do not answer.

    `answering` are the folders whose nodes do.
    """
    holders = _holders()
    if holders is None:
        return
    clean = 0
    for folder in _node_folders(patient):
        socket_path = folder / SOCKET_NAME
        by_socket, by_store = (_holder(folder / name, holders) for name in _LOCKS)
        if folder in answering:
            clean += 1
        elif by_socket is not None:
            what = f"process {by_socket} serves {folder} and does not answer"
            advice = f"it is stopped or hangs: see its log; `kill -CONT {by_socket}`, or end it (its data is on disk)"
            yield Finding("locks", PROBLEM, what, advice)
        elif by_store is not None:
            yield Finding("locks", OK, f"{folder} is in use by process {by_store}, a program that takes no commands")
        elif socket_path.is_socket():
            yield Finding(
                "locks", OK, f"{socket_path} was left by a process that was killed; the next start takes it over"
            )
        else:
            clean += 1
    if clean:
        yield Finding("locks", OK, f"{clean} folder{'s' if clean > 1 else ''} of nodes without leftovers")


def _node_folders(patient: Patient) -> list[Path]:
    """The folders of all nodes in the home, and the one that is meant."""
    found = [] if patient.folder is None or not patient.folder.is_dir() else [patient.folder]
    try:
        found += [path.parent for path in sorted(patient.home.glob(f"*/*/{_LOCKS[1]}"))]
    except OSError:
        pass  # said by `disk`
    return list(dict.fromkeys(path.resolve() for path in found))


# ---------------------------------------------------------------------- the clock's service


def clock_service(patient: Patient) -> Iterator[Finding]:
    """Whether something keeps this machine's clock, as the kernel knows it (adjtimex(2), Linux)."""
    if sys.platform != "linux":
        return
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(512))
    except (OSError, AttributeError):
        return
    if state == _TIME_ERROR:
        advice = "start a time service: systemd-timesyncd, chrony or ntpd (in a container: on its host)"
        yield Finding("clock", WARNING, "nothing keeps this machine's clock, as far as the kernel knows", advice)
    elif state >= 0:
        yield Finding("clock", OK, "this machine's clock is kept by a time service")
