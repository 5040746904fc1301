"""Who may see the page: this machine alone, or whoever has the token.

Checked for every request and every WebSocket before anything else: the Host header, so that a page of another site
cannot reach the camera under a name that it points here (DNS rebinding); the Origin header where a browser sends one;
and, where there is a token, the token, once in the address and from then on in a cookie that scripts cannot read.
"""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Collection
from urllib.parse import parse_qs, urlsplit

from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from edgeface.errors import OptionError

COOKIE = "edgeface_token"
SHORTEST_TOKEN = 16
_UNAUTHORISED = "The address lacks the right token: use the one that 'edgeface camera' printed.\n"
_FORBIDDEN = "This address is not served: use the one that 'edgeface camera' printed.\n"
_CLOSE_POLICY = 1008    # a WebSocket's close code for a breach of policy


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server bound to ``host``, an address or ``localhost``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def choose_token(bind: str, token: str | None) -> str | None:
    """The token to ask for: the one given, none on the loopback, otherwise one that is made here.

    Raises OptionError for a token that could be guessed or that does not fit into an address.
    """
    if token is None:
        return None if is_loopback(bind) else secrets.token_urlsafe(24)
    if len(token) < SHORTEST_TOKEN or not all(c.isascii() and (c.isalnum() or c in "-_") for c in token):
        raise OptionError(
            f"the token must be {SHORTEST_TOKEN} or more letters, digits, '-' and '_': leave it out and one is made"
        )
    return token


class Guard:
    """ASGI middleware that lets through what is allowed.

    ``hosts``: names and addresses under which the page may be asked for. Any literal address is allowed as well, since
    only names can be pointed somewhere else. ``token``: None lets everybody in who reaches the server.
    """

    def __init__(self, app: ASGIApp, *, hosts: Collection[str], token: str | None) -> None:
        self._app = app
        self._hosts = frozenset(host.lower() for host in hosts)
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        refusal = self._refusal(scope, headers)
        if refusal is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await refusal(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": _CLOSE_POLICY, "reason": ""})

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> Response | None:
        host = headers.get("host", "")
        if not self._is_allowed(host):
            return PlainTextResponse(_FORBIDDEN, 403)
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2].lower() != host.lower():
            return PlainTextResponse(_FORBIDDEN, 403)
        # By port: browsers do not keep the cookies of two cameras on one machine apart.
        cookie = f"{COOKIE}_{scope['server'][1]}"
        if self._token is None or self._matches(cookie_parser(headers.get("cookie", "")).get(cookie, "")):
            return None
        # What programs send that cannot keep a cookie, such as Prometheus.
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._matches(bearer.strip()):
            return None
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[-1]
        if not self._matches(given):
            return PlainTextResponse(_UNAUTHORISED, 401)
        if scope["type"] == "websocket" or scope["path"] != "/":
            return None
        # To the address without the token, so that it does not stay in the browser's history and in referrers.
        answer = RedirectResponse("/", 303)
        # Not "strict", with which the address fails where it is a link on another site, a chat's or a router's. Other
        # sites can make a browser ask for the page, but nothing changes by that, and they do not see the answer.
        answer.set_cookie(cookie, self._token, httponly=True, samesite="lax")
        return answer

    def _is_allowed(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
            ipaddress.ip_address(name)
        except ValueError:
            return _name_of(host) in self._hosts
        return True

    def _matches(self, given: str) -> bool:
        return self._token is not None and secrets.compare_digest(given.encode(), self._token.encode())


def _name_of(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""
