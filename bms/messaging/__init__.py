"""Messages between programs: sent to one node and acknowledged, asked and answered, or broadcast to all.

`window` remembers what was delivered, `topics` holds what waits for the program, `courier` carries it over links.
"""

from __future__ import annotations

__all__: list[str] = []
