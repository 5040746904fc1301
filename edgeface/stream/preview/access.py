"""Who may see the page: this machine alone, or whoever has the token.

Checked for every request and every WebSocket before anything else: the Host header, so that a page of another site
cannot reach the camera under a name that it points here (DNS rebinding); the Origin header where a browser sends one;
and, where there is a token, the token, once in the address and from then on in a cookie that scripts cannot read.

A proxy may stand between: it may pass on another Host than the browser's address has, and may serve the page under a
path of its own, which X-Forwarded-Prefix says.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import secrets
from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase
from urllib.parse import parse_qs, urlsplit

from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from edgeface.errors import OptionError
from edgeface.stream.preview.connections import HEADERS, LET_IN

COOKIE = "edgeface_token"
SHORTEST_TOKEN = 16
_UNAUTHORISED = "The address lacks the right token: use the one that 'edgeface camera' printed.\n"
# Browsers do not say which page a refused WebSocket was for, and leave Origin out where a page asks its own server: so
# the page says it, to be told why.
PAGE_ORIGIN = "x-page-origin"
# Nobody who may see the page waits for it; whoever guesses, or asks again and again, does.
REFUSAL_S = 0.5
_PATTERN = re.compile(r"[A-Za-z0-9._*?:-]+")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,253}")
_PREFIX = re.compile(r"(/[A-Za-z0-9._~-]+)+")


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


def allowed_hosts(patterns: Iterable[str]) -> tuple[str, ...]:
    """The names, such as ``robot1.lan`` or ``*.fritz.box``, in small letters. Raises OptionError for what is none."""
    for pattern in patterns:
        if not _PATTERN.fullmatch(pattern):
            raise OptionError(f"--allow-host {pattern!r}: is no name: write robot1.lan or *.fritz.box, without a port")
    return tuple(_plain(pattern) for pattern in patterns)


class Guard:
    """ASGI middleware that lets through what is allowed.

    ``hosts``: names and addresses under which the page may be asked for. Any literal address is allowed as well, since
    only names can be pointed somewhere else. ``patterns``: names, with ``*`` for any part, that are allowed besides,
    also as the address of the page where a proxy asks under another name. ``token``: None lets everybody in who reaches
    the server.
    """

    def __init__(
        self, app: ASGIApp, *, hosts: Collection[str], patterns: Collection[str] = (), token: str | None = None
    ) -> None:
        self._app = app
        self._hosts = frozenset(map(_plain, hosts))
        self._patterns = tuple(patterns)
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        prefix = headers.get("x-forwarded-prefix", "").rstrip("/")
        # What a proxy leaves in the path is no part of it here.
        if _PREFIX.fullmatch(prefix) and scope["path"].startswith(f"{prefix}/"):
            scope["root_path"] = prefix
        answer = self._answer(scope, headers)
        if answer is None or answer.status_code < 400:
            scope.setdefault("state", {})[LET_IN] = True
        else:
            answer.headers["Connection"] = "close"
            if scope["type"] == "websocket":        # which the server gives no headers
                answer.headers.update(dict(HEADERS))
            await asyncio.sleep(REFUSAL_S)
        await (answer or self._app)(scope, receive, send)

    def _answer(self, scope: Scope, headers: dict[str, str]) -> Response | None:
        """What is said instead of passing the request on."""
        host = headers.get("host", "")
        if not self._is_allowed(host):
            return _forbidden(host)
        origin = headers.get("origin", headers.get(PAGE_ORIGIN))
        if origin is not None:
            of_page = origin.partition("://")[2]
            if of_page.lower() != host.lower() and not self._is_named(_name_of(of_page)):
                return _forbidden(of_page)
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
        if scope["type"] == "websocket" or scope["path"].removeprefix(scope.get("root_path", "")) != "/":
            return None
        # To the address without the token, so that it does not stay in the browser's history and in referrers. A
        # relative one, since a proxy may have another path for it.
        prefix = headers.get("x-forwarded-prefix", "").rstrip("/")
        answer = RedirectResponse(f"{prefix}/" if _PREFIX.fullmatch(prefix) else "./", 303)
        # Not "strict", with which the address fails where it is a link on another site, a chat's or a router's. Other
        # sites can make a browser ask for the page, but nothing changes by that, and they do not see the answer.
        # Without a path: a browser takes the one that it sees, and a proxy may have another camera beside it.
        answer.set_cookie(
            cookie, self._token, httponly=True, samesite="lax", path=None, secure=scope["scheme"] in ("https", "wss")
        )
        return answer

    def _is_allowed(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
            ipaddress.ip_address(name)
        except ValueError:
            return _name_of(host) in self._hosts or self._is_named(_name_of(host))
        return True

    def _is_named(self, name: str) -> bool:
        return bool(name) and any(fnmatchcase(name, pattern) for pattern in self._patterns)

    def _matches(self, given: str) -> bool:
        return self._token is not None and secrets.compare_digest(given.encode(), self._token.encode())


def _forbidden(host: str) -> Response:
    name = _name_of(host)
    is_plain = _NAME.fullmatch(name) is not None
    named, option = (f"the name {name}", f"--allow-host {name}") if is_plain else ("this name", "--allow-host")
    return PlainTextResponse(
        f"Not served under {named}: use the address that 'edgeface camera' printed, or allow the name with {option}.\n",
        403,
    )


def _name_of(host: str) -> str:
    try:
        return _plain(urlsplit(f"//{host}").hostname or "")
    except ValueError:
        return ""


def _plain(name: str) -> str:
    """In small letters, without the dot that ends a name which no domain is added to."""
    return name.lower().removesuffix(".")
