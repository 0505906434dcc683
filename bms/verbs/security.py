"""The verbs about security: tokens of the HTTP interface, and login codes.

    issue_token    on disk (its SHA-256) when it is returned; good at this node until it expires or is revoked
    revoke         ends it and its children at once, here and on disk
    issue_login    a code, in memory, good once and for a minute: a link that opens the dashboard
    redeem_login   the code for a token

All tokens are in memory too, so that checking one asks no disk; there are at most `TOKENS_MAX`. Expired ones say so
until their place is needed or the node starts again. Formats and rules are in `security.tokens`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

import apsw
import attrs

from ..errors import ClosedError, LimitError, NotFoundError, RefusedError, StoreError
from ..security.tokens import (
    EVERYTHING,
    Claims,
    StoredToken,
    check_scopes,
    check_ttl,
    digest,
    make_code,
    make_token,
    token_id_of,
)
from ..store.database import Database
from .core import Core

__all__ = ["LOGINS_MAX", "TOKENS_MAX", "SecurityVerbs", "TokenTable"]

TOKENS_MAX = 1000
LOGINS_MAX = 64

_DAY_S = 86_400.0

_STEPS = (
    """
    CREATE TABLE tokens(id TEXT PRIMARY KEY, digest BLOB NOT NULL, name TEXT NOT NULL, scopes TEXT NOT NULL,
        issued_at REAL NOT NULL, expires_at REAL NOT NULL);
    """,
    "ALTER TABLE tokens ADD COLUMN issuer TEXT;",
)

_REMOVE = """
    WITH RECURSIVE ended(id) AS (
        SELECT ? UNION SELECT tokens.id FROM tokens JOIN ended ON tokens.issuer = ended.id
    ) DELETE FROM tokens WHERE id IN (SELECT id FROM ended)
"""


class TokenTable:
    """The tokens of one node, in its store and in memory."""

    def __init__(self, database: Database, now: float) -> None:
        database.prepare("tokens", _STEPS)
        self._database = database
        self._held: dict[str, StoredToken] = {}
        for token_id, kept, name, scopes, issued_at, expires_at, issuer in database.read(
            "SELECT id, digest, name, scopes, issued_at, expires_at, issuer FROM tokens WHERE expires_at>? "
            "ORDER BY issued_at",
            (now,),
        ):
            claims = Claims(token_id, name, tuple(json.loads(scopes)), issued_at, expires_at, issuer)
            self._held[token_id] = StoredToken(claims, kept)

    def get(self, token_id: str | None) -> StoredToken | None:
        """A token that is held, expired or not."""
        return None if token_id is None else self._held.get(token_id)

    def all(self, now: float) -> list[Claims]:
        """The claims of all that are in force, in the order of their issue."""
        return [stored.claims for stored in self._held.values() if now < stored.claims.expires_at]

    async def add(self, stored: StoredToken, now: float) -> None:
        """Keep one, on disk when this returns. LimitError beyond `TOKENS_MAX`, RefusedError if its issuer has ended
        meanwhile, StoreError; it is not kept then.

        Cancelled, it may be listed after the node's next start, although nobody has it.
        """
        claims = stored.claims
        row = (
            *(claims.token_id, stored.digest, claims.name, json.dumps(claims.scopes)),
            *(claims.issued_at, claims.expires_at, claims.issuer),
        )
        orphaned = RefusedError("the token that asks has ended, or is not on disk")

        def operation(connection: apsw.Connection) -> None:
            connection.execute("DELETE FROM tokens WHERE expires_at<=?", (now,))
            if connection.execute("SELECT count(*) FROM tokens").get >= TOKENS_MAX:
                raise LimitError(f"{TOKENS_MAX} tokens are in force at this node: revoke some, or let them expire")
            issuer = (claims.issuer,)
            if claims.issuer and not connection.execute("SELECT count(*) FROM tokens WHERE id=?", issuer).get:
                raise orphaned
            connection.execute("INSERT INTO tokens VALUES(?,?,?,?,?,?,?)", row)

        if len(self.all(now)) >= TOKENS_MAX:
            raise LimitError(f"{TOKENS_MAX} tokens are in force at this node: revoke some, or let them expire")
        await self._database.write(operation)
        if claims.issuer and claims.issuer not in self._held:
            raise orphaned  # what removes it on disk stands behind this in the queue, and takes its children along
        self.hold(stored, now)

    def hold(self, stored: StoredToken, now: float) -> None:
        """Keep one in memory, in the place of expired ones where there are many."""
        if len(self._held) >= TOKENS_MAX:
            self._held = {key: held for key, held in self._held.items() if now < held.claims.expires_at}
        self._held[stored.claims.token_id] = stored

    async def remove(self, token_id: str) -> None:
        """End one and its children: at once, and on disk when this returns. NotFoundError if there is none."""
        if token_id not in self._held:
            raise NotFoundError(f"there is no token {token_id!r:.80} at this node")
        ended = {token_id}
        while ended:
            for one in ended:
                del self._held[one]
            ended = {one for one, stored in self._held.items() if stored.claims.issuer in ended}
        await self._database.write(lambda connection: connection.execute(_REMOVE, (token_id,)))


@attrs.frozen
class _Login:
    scopes: tuple[str, ...]
    expires_at: float


class SecurityVerbs(Core):
    """See the module."""

    _tokens: TokenTable
    _logins: dict[bytes, _Login]

    async def issue_token(
        self, scopes: Iterable[str], ttl_s: float | None = None, name: str = "", *, issuer: Claims | None = None
    ) -> str:
        """A new token for the HTTP interface of this node, on disk as a hash when it is returned, never shown again.

        `scopes` are those of docs/how-to/tokens.md, "data:*", "*:read" or "*"; `ttl_s` seconds until it ends (None: 30
        days). With `issuer`, what `verify_token` says of the token that asks, it has no scope beyond that one's, ends
        no later (None: as late as may be), and is ended with it. Raises LocalProtocolError (no such scope),
        RefusedError (more than the issuer has), LimitError (1,000 are in force), StoreError; no token was made then.
        """
        table, now = self._token_table(), self._world.wall_time()
        token, stored = make_token(scopes, ttl_s, name, now=now, token_bytes=self._world.token_bytes, issuer=issuer)
        await table.add(stored, now)
        return token

    def verify_token(self, token: str) -> Claims:
        """What `token` allows; RefusedError if it is none of this node's, has expired or was revoked."""
        stored = self._token_table().get(token_id_of(token))
        if stored is None:
            raise RefusedError("the token is not valid at this node")
        return stored.check(token, self._world.wall_time())

    def tokens(self) -> list[Claims]:
        """The tokens in force at this node, in the order of their issue."""
        return self._token_table().all(self._world.wall_time())

    async def revoke(self, token_id: str) -> None:
        """End a token, by its id, and those that were issued with it: at once, on open streams too.

        NotFoundError if there is none. StoreError: it has ended, but is good again when this node is started again.
        Revoke it again then.
        """
        await self._token_table().remove(token_id)

    def issue_login(self, scopes: Iterable[str] = EVERYTHING, ttl_s: float = 60.0) -> str:
        """A code that `redeem_login` takes once, within `ttl_s` seconds; kept in memory. Of many the oldest ends."""
        self._token_table()
        login = _Login(check_scopes(scopes), self._world.monotonic() + check_ttl(ttl_s))
        code = make_code(self._world.token_bytes)
        self._logins[digest(code)] = login
        while len(self._logins) > LOGINS_MAX:
            del self._logins[next(iter(self._logins))]
        return code

    async def redeem_login(self, code: str, ttl_s: float = _DAY_S / 2) -> str:
        """A token with the scopes of a login code, which is used up.

        While the store cannot be written the token is kept in memory, and ends with the process: a node whose disk is
        full can still be looked at. Raises RefusedError (unknown, used or expired), LimitError (1,000 tokens are in
        force; the code stays good).
        """
        table = self._token_table()
        login = self._logins.pop(digest(code), None)
        if login is None or self._world.monotonic() >= login.expires_at:
            raise RefusedError("the login code is unknown, was used, or has expired")
        now = self._world.wall_time()
        token, stored = make_token(login.scopes, ttl_s, "login", now=now, token_bytes=self._world.token_bytes)
        try:
            await table.add(stored, now)
        except LimitError:
            self._logins[digest(code)] = login
            raise
        except StoreError:
            table.hold(stored, now)
        return token

    def _token_table(self) -> TokenTable:
        if self._is_closed:
            raise ClosedError("this mesh was shut down")
        return self._tokens
