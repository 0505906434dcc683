"""Files that are the same on every node of this version, and so need no token: the dashboard, the API's description.

    /               the dashboard
    /static/NAME    its files
    /openapi.json   the OpenAPI 3.1 document
    /docs           the same for people, drawn by a script of our own: the usual viewers bring styles and scripts
                    inline, which the policy of these pages forbids

The files that exist are listed once, when the application is made, and a request names one of that list: no path is
ever put together from what a client sends. Each has an entity tag of its content, so that a browser that has it gets
304. The policy allows what this server itself serves and nothing inline.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import trio
from quart import Response

from ...errors import NotFoundError
from ..openapi import document
from ..routing import JSON, PUBLIC, Call, Media, Routes

__all__ = ["POLICY", "Files", "get_dashboard", "get_docs", "get_docs_file", "get_openapi", "get_static", "routes"]

routes = Routes("pages")

POLICY = "; ".join(
    (
        *("default-src 'self'", "base-uri 'none'", "form-action 'self'", "frame-ancestors 'none'"),
        *("object-src 'none'", "script-src 'self'", "style-src 'self'"),
    )
)

HTML = "text/html; charset=utf-8"
_TYPES = {
    ".html": HTML,
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": JSON,
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".woff2": "font/woff2",
    ".txt": "text/plain; charset=utf-8",
    ".md": "text/plain; charset=utf-8",
    ".map": JSON,
    ".webmanifest": "application/manifest+json",
}
_ETAG = {"ETag": "of the content"}


class Files:
    """The files below a folder, by name."""

    def __init__(self, folder: Path) -> None:
        found = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix in _TYPES)
        self._paths = {path.relative_to(folder).as_posix(): path for path in found}
        self._tags: dict[str, tuple[tuple[int, int], str]] = {}

    def __iter__(self) -> object:
        return iter(self._paths)

    async def read(self, name: str) -> tuple[bytes, str, str]:
        """The content of a file, its entity tag and its type; NotFoundError if there is none of that name."""
        path = self._paths.get(name)
        if path is None:
            raise NotFoundError(f"there is no file {name!r:.80}")
        try:
            content = await trio.Path(path).read_bytes()
            stat = await trio.Path(path).stat()
        except OSError as error:
            raise NotFoundError(f"the file {name!r} cannot be read") from error
        mark = (stat.st_mtime_ns, stat.st_size)
        known = self._tags.get(name)
        if known is None or known[0] != mark:
            known = self._tags[name] = (mark, hashlib.sha256(content).hexdigest()[:32])
        return content, known[1], _TYPES[path.suffix]


_HERE = Path(__file__).parents[1]
STATIC = Files(_HERE / "static")
DOCS = Files(_HERE / "docs")


async def _show(call: Call, files: Files, name: str) -> Response:
    content, tag, kind = await files.read(name)
    return _answer(call, content, tag, kind)


def _answer(call: Call, content: bytes, tag: str, kind: str) -> Response:
    headers = {"ETag": f'"{tag}"', "Cache-Control": "no-cache", "Content-Security-Policy": POLICY}
    if not call.condition.allows(tag):
        return Response(b"", status=304, headers=headers)
    return Response(content, headers=headers, content_type=kind)


@routes.add("GET", "/", scope=PUBLIC, conditions=True, answers={200: Media(HTML, _ETAG), 304: None}, errors=(404,))
async def get_dashboard(call: Call) -> Response:
    """The dashboard."""
    return await _show(call, STATIC, "index.html")


@routes.add(
    "GET", "/static/<path:name>", scope=PUBLIC, conditions=True, answers={200: Media("*/*", _ETAG), 304: None},
    errors=(404,),
)  # fmt: skip
async def get_static(call: Call) -> Response:
    """A file of the dashboard."""
    return await _show(call, STATIC, call.path["name"])


@routes.add("GET", "/docs", scope=PUBLIC, conditions=True, answers={200: Media(HTML, _ETAG), 304: None})
async def get_docs(call: Call) -> Response:
    """This interface, explained."""
    return await _show(call, DOCS, "index.html")


@routes.add(
    "GET", "/docs/<name>", scope=PUBLIC, conditions=True, answers={200: Media("*/*", _ETAG), 304: None}, errors=(404,)
)
async def get_docs_file(call: Call) -> Response:
    """A file of that page."""
    return await _show(call, DOCS, call.path["name"])


@routes.add("GET", "/openapi.json", scope=PUBLIC, conditions=True, answers={200: Media(JSON, _ETAG), 304: None})
async def get_openapi(call: Call) -> Response:
    """The OpenAPI 3.1 document of this interface."""
    await trio.lowlevel.checkpoint()
    content, tag = document()
    return _answer(call, content, tag, JSON)
