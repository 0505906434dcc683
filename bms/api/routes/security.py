"""Routes about tokens: issuing, listing, ending them; logging in with a one-time code; who one is.

Nobody gets more than they have: a token can be asked for with scopes that the asking token has and no later end, ends
with it, and can be ended by those who could have issued it. A login needs no token. It has no rate limit beside that of
all requests: a code has 256 random bits, is good once and for a minute, so nobody finds one by trying, while a smaller
limit would let whoever shares an address (this machine's, a proxy's) keep everybody else from logging in.
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
    """Issue a token that is allowed no more than the one that asks, and ends with it or before. It is shown once."""
    body: NewToken = call.body
    token = await call.mesh.issue_token(body.scopes, body.ttl_s, body.name, issuer=_claims(call))
    return json_response(TokenIssued(token, call.mesh.verify_token(token)), 201)


@routes.add("DELETE", "/api/v1/tokens/<token_id>", scope="tokens:write", answers={204: None}, errors=(404, 507))
async def revoke_token(call: Call) -> Response:
    """End a token, and those that were issued with it, at once, on open streams too."""
    token_id = call.path["token_id"]
    claims = _claims(call)
    held = next((one for one in call.mesh.tokens() if one.token_id == token_id), None)
    if held is None:
        raise NotFoundError(f"there is no token {token_id!r:.80} at this node")
    if held.token_id != claims.token_id:
        more = beyond(claims.scopes, held.scopes)
        if more:
            raise RefusedError(f"the token is allowed more than the one that asks: {', '.join(more)}")
    await call.mesh.revoke(token_id)
    return Response(b"", status=204)


@routes.add(
    "POST", "/api/v1/login", scope=PUBLIC, body=Login, body_bytes_max=4096, answers={200: LoginDone}, limit_status=429
)
async def login(call: Call) -> Response:
    """A token for a one-time code."""
    body: Login = call.body
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
