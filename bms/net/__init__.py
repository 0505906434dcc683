"""Connections between nodes: TLS channels, links, the pool that holds them, and listeners.

A *channel* is an encrypted byte stream whose peer has shown a certificate. A *link* is a channel whose peer has proven,
by hello and proof, which node it is. Rooms above see links, and beside them `datagrams`, small sealed packets.
"""

from __future__ import annotations

__all__: list[str] = []
