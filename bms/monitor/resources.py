"""What this process takes from its machine: CPU, memory, file handles, disk. Linux' /proc, with what else there is.

Each figure is that of the whole process: a program that embeds a node, or several, sees the sum. What the system does
not tell is None. Reading all of it costs about 50 µs; nothing is kept.
"""

from __future__ import annotations

import os
import resource
import shutil
import sys
import time
from pathlib import Path

__all__ = ["cpu_s", "disk_free_bytes", "handles", "handles_max", "rss_bytes", "version"]

_PAGE_BYTES = resource.getpagesize()


def cpu_s() -> float:
    """CPU seconds of all threads of this process, in user and system mode."""
    return time.process_time()


def rss_bytes() -> int | None:
    """Resident memory."""
    try:
        return int(Path("/proc/self/statm").read_bytes().split()[1]) * _PAGE_BYTES
    except (OSError, ValueError, IndexError):
        # Elsewhere only the highest so far is known; macOS counts it in bytes, others in KiB.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def handles() -> int | None:
    """Open file handles, sockets among them."""
    for folder in ("/proc/self/fd", "/dev/fd"):
        try:
            return len(os.listdir(folder)) - 1  # one of them reads the folder
        except OSError:
            continue
    return None


def handles_max() -> int | None:
    """How many this process may have open; None: as many as it likes."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def disk_free_bytes(folder: Path | None) -> int | None:
    """What is free where the node keeps its data; None where it keeps it in memory."""
    if folder is None:
        return None
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def version() -> str:
    """The version of this program that is installed."""
    from importlib import metadata

    try:
        return metadata.version("bellande-mesh-sync")
    except metadata.PackageNotFoundError:  # run from a source tree that is not installed
        return "unknown"
