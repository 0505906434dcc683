"""One request to a node and its answer, over httpx: a bounded answer, and what a failure means.

An answer is read piece by piece, and whoever sends more than `bytes_max` is hung up on. A packed one is refused: nobody
has asked for it, and it may unpack to anything. Loaded when a client is opened, since httpx costs 7 MB.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx

from ..errors import ClosedError, DeliveryError, LimitError, LocalProtocolError, RemoteProtocolError
from .feed import CONNECT_S
from .place import Place, unreachable

__all__ = ["Exchange", "open_exchange"]


class _Body(httpx.AsyncByteStream):
    """The body of a request. httpx's own is an async generator, which a cancellation in mid-send leaves to the garbage
    collector: Trio warns of that.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._is_sent = False

    def __aiter__(self) -> _Body:
        self._is_sent = False
        return self

    async def __anext__(self) -> bytes:
        if self._is_sent:
            raise StopAsyncIteration
        self._is_sent = True
        return self._data


class Exchange:
    """The connections to one node. Made by `open_exchange`."""

    def __init__(self, http: httpx.AsyncClient, place: Place, bytes_max: int) -> None:
        self._http = http
        self._place = place
        self._bytes_max = bytes_max

    async def ask(self, method: str, path: str, timeout_s: float | None, **body: Any) -> httpx.Response:
        """The answer to a request, whatever its status, and all of its body; `body` is httpx's `json` or `content`.

        UnreachableError or RefusedError (nothing was sent), DeliveryError (sent, outcome unknown), LimitError (the
        answer to a read is too long), RemoteProtocolError, ClosedError.
        """
        request = self._http.build_request(
            method, path, timeout=self._http.timeout if timeout_s is None else httpx.Timeout(timeout_s,
            connect=CONNECT_S), **body,
        )  # fmt: skip
        request.stream = _Body(request.content)
        try:
            return await self._exchange(request)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise unreachable(self._place, error) from error
        except httpx.PoolTimeout as error:
            raise LimitError("too many requests of this client are under way") from error
        except httpx.UnsupportedProtocol as error:
            raise LocalProtocolError(str(error)) from error
        except httpx.HTTPError as error:
            what = str(error) or type(error).__name__
            raise DeliveryError(f"{self._place.authority} did not answer; the outcome is unknown: {what}") from error
        except RuntimeError as error:
            if self._http.is_closed:
                raise ClosedError("this client is closed") from error
            raise

    async def _exchange(self, request: httpx.Request) -> httpx.Response:
        answer = await self._http.send(request, stream=True)
        try:
            coding = answer.headers.get("Content-Encoding", "identity")
            if coding.strip().lower() != "identity":
                raise RemoteProtocolError(f"the answer is packed ({coding[:40]!r}), which nobody has asked for")
            body = await self._read(answer)
        finally:
            await answer.aclose()
        return httpx.Response(answer.status_code, headers=answer.headers, content=body, request=request)

    async def _read(self, answer: httpx.Response) -> bytes:
        parts, size = [], 0
        try:
            async for part in answer.aiter_raw():
                size += len(part)
                if size > self._bytes_max:
                    await answer.aclose()  # leaving the loop would leave httpx's generators to the garbage collector
                else:
                    parts.append(part)
        except httpx.HTTPError:
            if size <= self._bytes_max:
                raise
        if size > self._bytes_max:
            kind = LimitError if answer.request.method == "GET" else RemoteProtocolError
            raise kind(f"the answer has more than {self._bytes_max:,} bytes (answer_bytes_max); no more was read")
        return b"".join(parts)


@asynccontextmanager
async def open_exchange(
    place: Place, headers: Mapping[str, str], timeout_s: float, bytes_max: int
) -> AsyncIterator[Exchange]:
    """Connections to the node at `place`, made when they are needed. Redirects and proxies get nothing."""
    async with httpx.AsyncClient(
        base_url=f"{place.scheme}://{place.authority}", headers=headers, verify=place.tls or True, trust_env=False,
        timeout=httpx.Timeout(timeout_s, connect=min(timeout_s, CONNECT_S)), follow_redirects=False,
    ) as http:  # fmt: skip
        yield Exchange(http, place, bytes_max)
