"""Routes about tokens: issuing, listing, ending them; logging in with a one-time code; who one is.

Nobody gets more than they have: a token can be asked for with scopes that the asking token has, and ended by those who
could have issued it. A login needs no token and has a small rate limit of its own for each address, so that nobody
tries codes by the thousand; a code has 256 random bits and is good once.
"""

from __future__ import annotations

import attrs
import trio
from quart import Response

from ...control.verbs import version
from ...errors import NotFoundError, RefusedError
from ...security.tokens import Claims, beyond
from ..problems import ProblemError
from ..routing import ANY_TOKEN, PUBLIC, Call, Routes, json_response
from ..schemas import Login, LoginDone, NewToken, TokenIssued, Tokens, WhoAmI

__all__ = ["issue_token", "list_tokens", "login", "revoke_token", "routes", "who_am_i"]

routes = Routes("tokens")


def _claims(call: Call) -> Claims:
    assert call.claims is not None, "the route needs a token"
    return call.claims


def _within(claims: Claims, scopes: list[str] | tuple[str, ...], what: str) -> None:
    more = beyond(claims.scopes, scopes)
    if more:
        detail = f"the token {what} would be allowed more than the one that asks: {', '.join(more)}"
        raise ProblemError(403, detail, RefusedError)


@routes.add("GET", "/api/v1/tokens", scope="tokens:read", answers={200: Tokens})
async def list_tokens(call: Call) -> Response:
    """The tokens in force at this node, without their secrets."""
    await trio.lowlevel.checkpoint()
    return json_response(Tokens(call.mesh.tokens()))


@routes.add(
    "POST", "/api/v1/tokens", scope="tokens:write", body=NewToken, answers={201: TokenIssued}, errors=(507,),
    limit_status=429,
)  # fmt: skip
async def issue_token(call: Call) -> Response:
    """Issue a token that is allowed no more than the one that asks. It is shown once."""
    body: NewToken = call.body
    _within(_claims(call), body.scopes, "that is asked for")
    token = await call.mesh.issue_token(body.scopes, body.ttl_s, body.name)
    return json_response(TokenIssued(token, call.mesh.verify_token(token)), 201)


@routes.add("DELETE", "/api/v1/tokens/<token_id>", scope="tokens:write", answers={204: None}, errors=(404, 507))
async def revoke_token(call: Call) -> Response:
    """End a token at once, on open streams too."""
    token_id = call.path["token_id"]
    claims = _claims(call)
    held = next((one for one in call.mesh.tokens() if one.token_id == token_id), None)
    if held is None:
        raise NotFoundError(f"there is no token {token_id!r:.80} at this node")
    if held.token_id != claims.token_id:
        _within(claims, held.scopes, "that is to be ended")
    await call.mesh.revoke(token_id)
    return Response(b"", status=204)


@routes.add(
    "POST", "/api/v1/login", scope=PUBLIC, body=Login, body_bytes_max=4096, answers={200: LoginDone}, limit_status=429
)
async def login(call: Call) -> Response:
    """A token for a one-time code."""
    body: Login = call.body
    if not call.context.logins.take(call.address, trio.current_time()):
        raise ProblemError(429, "too many logins from this address", None, {"Retry-After": "2"})
    try:
        token = await call.mesh.redeem_login(body.code)
    except RefusedError as error:
        raise ProblemError(403, str(error), RefusedError) from None
    claims = call.mesh.verify_token(token)
    return json_response(LoginDone(token, claims.expires_at, list(claims.scopes)))


@routes.add("GET", "/api/v1/whoami", scope=ANY_TOKEN, answers={200: WhoAmI})
async def who_am_i(call: Call) -> Response:
    """Whose token this is, what it allows, and which node answers."""
    await trio.lowlevel.checkpoint()
    fields = attrs.asdict(_claims(call))
    config = call.mesh.config
    return json_response(
        WhoAmI(
            **{**fields, "scopes": list(fields["scopes"])}, node_id=call.mesh.node_id, node_name=config.node_name,
            mesh_name=config.mesh_name, version=version(),
        )
    )  # fmt: skip
