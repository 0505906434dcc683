"""Who is in the mesh: the view each node has of the others, and how it is kept up.

`view` decides, as a plain machine; `gossip` carries its decisions out over links; `discovery` finds first addresses.
"""

from __future__ import annotations

__all__: list[str] = []
