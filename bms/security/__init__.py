"""Who is who: keys, the mesh's authority, certificates, signed records, and what each member may do.

Formats and crypto only. Nothing here knows of streams or tasks; `disk` alone touches the file system, for `authority`
and `identity`. Lowest first: `keys`, `pem`, `disk`, `signed`, `certificates`, `bundle`, `records`, `trust`,
`authority`, `identity`; beside them `pairwise` and `pairs`, for datagrams, and
`tokens`, for the HTTP interface. The formats are in docs/reference/formats.md.
"""

from __future__ import annotations

__all__: list[str] = []
