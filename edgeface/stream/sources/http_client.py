"""HTTP as cameras speak it: a login, redirects that lead nowhere else, and why there is no answer, in words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

import requests
import urllib3
from requests.auth import AuthBase, HTTPBasicAuth, HTTPDigestAuth

from edgeface.addresses import can_be_host, redacted
from edgeface.errors import OptionError, SourceError

if TYPE_CHECKING:
    from edgeface.stream.sources import SourceSpec

CONNECT_TIMEOUT_S = 4.0
READ_TIMEOUT_S = 8.0
MOST_REDIRECTS = 10
_REDIRECTS = frozenset((301, 302, 303, 307, 308))
_PORTS = {"http": 80, "https": 443}
# More than cameras send while one picture is decoded, so that old ones do not pile up in the system.
_CHUNK_BYTES = 1 << 19
_HEADERS = {"User-Agent": "edgeface", "Accept": "*/*", "Accept-Encoding": "identity"}

_STATUS_REASONS = {
    401: "the name or password is wrong: check both in the address",
    403: "this user may not see the stream: check the camera's settings",
    404: "the server has no such stream: check the path in the address",
    407: "a proxy asks for a login: give the camera's own address",
    429: "it is asked too often: lower --fps",
    503: "it is busy, perhaps with other viewers: close them, or restart it",
}
_NO_ANSWER = "no answer in time: check the address, and that the camera is on"
# What the system says of a connection that did not come about, and what to say of it.
_CONNECTION_REASONS = (
    ("Connection refused", "nothing listens there: check address and port, and that the camera is on"),
    ("No route to host", "the network does not lead there: check the address and the network"),
    ("Network is unreachable", "the network does not lead there: check the address and the network"),
    ("timed out", _NO_ANSWER),
)


@dataclass(frozen=True)
class Answer:
    """An answer of 200: the type of its content, the boundary between parts (b"": none is announced), its length in
    bytes where it says one, and ``read`` for what has come of its content, b"" at the end."""

    content_type: str
    boundary: bytes
    length: int | None
    read: Callable[[], bytes]
    close: Callable[[], None]


class HttpClient:
    """Asks one address again and again, over one connection where the server keeps it.

    The name and password of the address are sent to that address alone, and only when it asks for them. Proxies and
    .netrc of the environment are left aside: a camera is reached at the address that was given, and nowhere else.
    """

    def __init__(self, spec: SourceSpec, timeout_s: float = READ_TIMEOUT_S) -> None:
        """``timeout_s``: the longest silence in an answer. Raises OptionError for an address that is none."""
        self._shown = spec.shown
        self._timeout_s = timeout_s
        self._follows_anywhere = spec.any_redirect
        self._url, self._login = _without_login(spec)
        self._given = _place(urlsplit(self._url))
        self._auth: AuthBase | None = None
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.headers = _HEADERS  # type: ignore[assignment]  # any mapping will do
        self._session.verify = not spec.any_certificate
        if spec.any_certificate:
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)

    def get(self) -> Answer:
        """Ask, follow, log in; raises SourceError with the reason in words."""
        url = self._url
        for _ in range(MOST_REDIRECTS):
            response = self._ask(url)
            if response.status_code == 401 and self._auth is None and self._login is not None and self._is_given(url):
                self._auth = _auth(response.headers.get("WWW-Authenticate", ""), self._login)
                response.close()
                response = self._ask(url)
            if response.status_code == 401 and self._login is None:
                response.close()
                raise self._error("it wants a login: write NAME:PASSWORD@ before the host in the address")
            if response.status_code in _REDIRECTS and "Location" in response.headers:
                response.close()
                url = self._next(url, response.headers["Location"])
                continue
            if response.status_code != 200:
                response.close()
                raise self._error(_refusal(response))
            return self._answer(response)
        raise self._error(f"its redirects lead in a circle, by way of {redacted(url)}: check the path in the address")

    def close(self) -> None:
        """Let go of the connection."""
        self._session.close()

    def _ask(self, url: str) -> requests.Response:
        auth = self._auth if self._is_given(url) else None
        try:
            return self._session.get(
                url, auth=auth, stream=True, allow_redirects=False, timeout=(CONNECT_TIMEOUT_S, self._timeout_s)
            )
        except requests.exceptions.RequestException as error:
            raise self._error(_reason(error)) from None
        except (urllib3.exceptions.HTTPError, ValueError) as error:
            raise self._error(f"what answers there does not speak HTTP ({error}): check the port") from None

    def _answer(self, response: requests.Response) -> Answer:
        header = Message()
        header["Content-Type"] = response.headers.get("Content-Type", "")
        boundary = header.get_param("boundary")
        length = response.headers.get("Content-Length", "")

        def read() -> bytes:
            try:
                data: bytes = response.raw.read1(_CHUNK_BYTES)
            except urllib3.exceptions.ReadTimeoutError:
                raise self._error(f"it sent nothing for {self._timeout_s:g} s: check the camera") from None
            except (urllib3.exceptions.HTTPError, OSError, ValueError):
                raise self._error("the connection broke: check the network, and that the camera is on") from None
            return data

        return Answer(
            header.get_content_type() if response.headers.get("Content-Type") else "",
            boundary.encode("latin-1", "replace") if isinstance(boundary, str) else b"",
            int(length) if length.isascii() and length.isdigit() else None,
            read, response.close,
        )

    def _next(self, url: str, location: str) -> str:
        """Where a redirect leads. Raises SourceError where it may not be followed."""
        try:
            target = urlsplit(urljoin(url, location))
            place = _place(target)
        except ValueError:
            raise self._error("it redirects to what is no address: check the path in the address") from None
        shown = redacted(target.geturl())
        if target.scheme not in _PORTS:
            raise self._error(f"it redirects to {shown}, which is not http: check the path in the address")
        upgraded = (*self._given[:1], 443)
        if not self._follows_anywhere and place != self._given and (self._given[1] != 80 or place != upgraded):
            raise self._error(
                f"it redirects to {shown}, another address than the one given: give that one, or --any-redirect"
            )
        return target._replace(netloc=target.netloc.rpartition("@")[2]).geturl()

    def _is_given(self, url: str) -> bool:
        place = _place(urlsplit(url))
        return place == self._given or (self._given[1] == 80 and place == (self._given[0], 443))

    def _error(self, reason: str) -> SourceError:
        return SourceError(f"{self._shown}: {reason}")


def _without_login(spec: SourceSpec) -> tuple[str, tuple[str, str] | None]:
    """The address of a spec without its name and password, and these."""
    scheme, _, rest = spec.address.partition("://")
    # As the standard reads it, or else with a password that holds what it should not: '/', '?' or '#'.
    for login, at, place in (_partition_login(rest), rest.rpartition("@")):
        try:
            parts = urlsplit(f"{scheme}://{place}")
            host, _ = parts.hostname, parts.port
        except ValueError:
            continue
        if can_be_host(host):
            name, _, password = login.partition(":")
            return parts._replace(fragment="").geturl(), (unquote(name), unquote(password)) if at else None
    raise OptionError(f"{spec.shown}: is no address: write http://HOST[:PORT]/PATH")


def _partition_login(rest: str) -> tuple[str, str, str]:
    """What follows the scheme as user info, '@' or nothing, and host with path."""
    end = next((i for i, c in enumerate(rest) if c in "/?#"), len(rest))
    login, at, host = rest[:end].rpartition("@")
    return login, at, host + rest[end:]


def _place(parts: SplitResult) -> tuple[str, int]:
    """Host and port."""
    return (parts.hostname or "").rstrip("."), parts.port or _PORTS.get(parts.scheme, 0)


def _auth(challenge: str, login: tuple[str, str]) -> AuthBase:
    # Where a server offers both, the one that does not send the password.
    return HTTPDigestAuth(*login) if "digest" in challenge.lower() else HTTPBasicAuth(*login)


def _refusal(response: requests.Response) -> str:
    known = _STATUS_REASONS.get(response.status_code)
    said = f"it answers {response.status_code} {response.reason or ''}".strip()
    if response.status_code == 401 or known is None:
        return known or f"{said}: check the path in the address and the camera's settings"
    return f"{said}: {known}"


def _reason(error: requests.exceptions.RequestException) -> str:
    """Why there was no answer."""
    said = str(error)
    if isinstance(error, requests.exceptions.SSLError):
        if "certificate" in said.lower():
            return (
                "its TLS certificate is not one to trust: if you know it (cameras often make their own), add "
                "--any-certificate"
            )
        return "what answers there does not speak TLS: write http://, or check the port"
    if isinstance(error, requests.exceptions.ReadTimeout):
        return "it takes the connection and does not answer: check the port, and restart the camera"
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return _NO_ANSWER
    cause: Any = error.args[0] if error.args else None
    cause = getattr(cause, "reason", cause)
    if isinstance(cause, urllib3.exceptions.NameResolutionError):
        return "no such host: check its name"
    if isinstance(cause, urllib3.exceptions.ProtocolError):
        if "BadStatusLine" in said:
            return "what answers there does not speak HTTP: check the port"
        return "it closes the connection without an answer: check port and path"
    for words, reason in _CONNECTION_REASONS:
        if words in said:
            return reason
    return "it cannot be reached: check the address, and that the camera is on"
