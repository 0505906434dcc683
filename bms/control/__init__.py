"""The local Unix socket of a running node, for the command line and other programs of the same user.

    place       where the socket lies, its mode and its lock
    answers     the shape of answers, known to both ends
    failures    errors across the socket
    client      `open_control`: the other end
    verbs       what can be asked: each verb is one call of the embedding API
    server      `serve_control`: the node's end

It speaks the frames of `wire`, with the messages command, result, item and failure (docs/reference/wire.cddl), which no
other link takes. A client of Mesh, nothing more: whatever can be done here can be done by a program that embeds a mesh.

Here stand the names of a client. The server is imported as `bms.control.server`, since it brings the whole mesh along.
"""

from .answers import Status
from .client import ControlClient, open_control
from .place import SOCKET_NAME

__all__ = ["SOCKET_NAME", "ControlClient", "Status", "open_control"]
