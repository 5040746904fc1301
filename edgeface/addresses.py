"""Addresses as people may see them: scheme, host, port and path, without what lets others in.

Users write passwords into addresses as they are, with '@', '/' or '#' in them, so that an address may be read in more
than one way. Only what is no secret in any of them is shown.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeGuard
from urllib.parse import unquote, unquote_plus

from edgeface.random_keys import looks_drawn

HIDDEN = "***"
# Of a secret that is looked for in other parts of an address and in other texts.
_SHORTEST = 4

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
# One in a text, where a space or a quotation mark ends it.
_IN_TEXT = re.compile(_SCHEME.pattern + r"[^\s\"'<>]+")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.%\w-]+\]|[^\s/?#@:\[\]]+)(:\d{1,5})?(?=[/?#]|$)")
_QUERY = re.compile(r"\?[\w.-]+=")
# What cameras take in an address and what lets nobody in: the values of these are shown in a path.
_PLAIN_NAMES = re.compile(
    r"(?:video|audio)?_?(?:ch|chn|channel\w*|stream\w*|sub\w*|main\w*|track\w*|profile\w*|res\w*|size|width|height|fps"
    r"|rate|bitrate|codec|video\w*|audio\w*|cam|camera|name|format|type|quality|mode|unicast|multicast|proto\w*"
    r"|transport\w*|cmd|action|number|nr|index|view\w*|lang\w*|rotation|compression|inst|line|dur\w*)", re.IGNORECASE,
)
_PLAIN_VALUE = re.compile(r"\d{1,2}(\.\w{1,5})?")
_SECRET_NAME = re.compile(
    r"pass(?:word|wd|wort|code|phrase)?|pwd?|psw|token|secret|(?:api|stream|access)[_-]?(?:key|token|code)|credentials?"
    r"|auth|signature|session|pin|key|sid|sig|web[_-]?hooks?|bearer|jwt", re.IGNORECASE,
)
_USER_NAME = re.compile(r"(?:log[io]n)?_?(?:user?|usr|user_?name|u|login|account)", re.IGNORECASE)
_SECRET_PREFIX = re.compile(
    r"((?:pass(?:word|wd|wort)|pwd|psw|token|secret|api_?key|credentials?)[_-])([^/&;,_]+)", re.IGNORECASE
)
_PAIR = re.compile(r"([^/&;,=]+?)=([^/&;,]*?)(?=[&;,]|_[A-Za-z]\w*?=|$)")
# Not the kinds of files that streaming servers take there, and not a time.
_LOGIN = re.compile(r"^(?!(?:mp[34]|flv|smil|ndvr|amf|raw):)([^/:]*[A-Za-z][^/:]*):(?!\d\d(?!\w))([^/]+)")
_NAME_PASSWORD = re.compile(r"([^.]+\.)([^.]+)(\.mp2)")


@dataclass(frozen=True)
class _Reading:
    """One way to read an address: the host begins at ``start``, the path ends before ``end``."""

    start: int
    end: int


def redacted(address: str) -> str:
    """An address without user info, query and fragment, and with ``***`` for what looks like a secret in its path.

    Scheme, host, port and the rest of the path stay as they are, and so does a text that is no address. Where a
    password makes an address ambiguous, less is shown.
    """
    scheme, rest = _split(address)
    if not scheme and not _is_login(rest):
        return address
    nested = _nested(rest)
    if nested:
        return redacted(scheme + rest[:nested]) + redacted(rest[nested:])
    readings = _readings(rest)
    if not readings:
        host, _, path = rest.partition("/")
        # No host that could be one: of "name:password" the first may be shown, of anything else nothing.
        return f"{scheme}{HIDDEN}" if "@" in rest else scheme + host.partition(":")[0] + f":{HIDDEN}"
    start, end = max(r.start for r in readings), min(r.end for r in readings)
    if start >= end:
        return f"{scheme}{HIDDEN}"
    known = [secret for secret in _secrets(rest) if len(secret) >= _SHORTEST]
    host, slash, path = rest[start:end].partition("/")
    # Or what may be a part of the path would look like the host.
    mark = f"{HIDDEN}@" if start and not readings[0].start else ""
    return f"{scheme}{mark}{host}{slash}{_shown_path(path, known)}"


def redacted_text(text: str, address: str = "", *, parts: bool = True) -> str:
    """A text, such as a program's last words, with every address in it ``redacted``.

    ``address`` is one that it is known to speak of: that is found whatever it consists of. ``parts``: and so are its
    secrets alone, which are only known not to stand in a text of our own, where a password may be one of the words.
    """
    if address:
        text = text.replace(address, redacted(address))
    if address and parts:
        for secret in sorted(_secrets(_split(address)[1]), key=len, reverse=True):
            if len(secret) >= _SHORTEST:
                text = text.replace(secret, HIDDEN)

    def shown(match: re.Match[str]) -> str:
        whole = match.group()
        bare = whole.rstrip(".,:;)")
        return redacted(bare) + whole[len(bare) :]

    return _IN_TEXT.sub(shown, text)


def has_secret(text: str) -> bool:
    """Whether an address in the text, such as a word of a command line, holds a password or a key; a name is none."""
    match = _SCHEME.search(text)
    rest = text[match.end() :] if match else text
    if match is None and not _is_login(rest):
        return False
    return any(_secrets(rest)) or HIDDEN in redacted(rest if match is None else match.group() + rest) or (
        _nested(rest) > 0 and has_secret(rest)
    )


def can_be_host(name: str | None) -> TypeGuard[str]:
    """Whether a resolver takes the name at all: it has no part that is empty or too long, and no sign that is none."""
    try:
        return bool(name and name.encode("idna"))
    except UnicodeError:
        return False


def _split(address: str) -> tuple[str, str]:
    match = _SCHEME.match(address)
    return (match.group(), address[match.end() :]) if match else ("", address)


def _nested(rest: str) -> int:
    """Where in a path another address begins, as proxies of streams take them; 0: nowhere."""
    match = _SCHEME.search(rest)
    is_path = match is not None and rest[match.start() - 1] == "/" and _HOST.match(rest) is not None
    return match.start() if match is not None and is_path and "?" not in rest[: match.start()] else 0


def _is_login(text: str) -> bool:
    """Whether a text without a scheme begins with a name and a password."""
    return re.match(r"/*[^/:@\s]+:[^@]*@[^\s]", text) is not None


def _readings(rest: str) -> list[_Reading]:
    """Every way to read what follows the scheme that is not far-fetched."""
    starts = [0, *(at.end() for at in re.finditer("@", rest))]
    likely = [start for start in starts if _HOST.match(rest, start)]
    if len(likely) > 1 and likely[0] == 0:
        if _is_surely_host(rest):
            likely = likely[:1]
        elif ":" not in rest[: _end_of_host(rest)]:
            likely = likely[1:]
    kept: list[int] = []
    for start in likely:
        # An '@' in a query belongs to a value of it.
        before = kept[-1] if kept else None
        if before is None or not _has_query_between(rest, before, start):
            kept.append(start)
    return [_Reading(start, _end_of_path(rest, start)) for start in kept]


def _is_surely_host(rest: str) -> bool:
    """Whether the address cannot begin with a name and a password, though there is an '@' further on."""
    match = _HOST.match(rest)
    assert match is not None
    host, port = match.groups()
    with_path = rest[match.end() : match.end() + 1] == "/" or _QUERY.match(rest, match.end()) is not None
    if port is None:
        return with_path
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return host.startswith("[") or host == "localhost"
    return True


def _end_of_host(rest: str) -> int:
    match = _HOST.match(rest)
    return match.end() if match else 0


def _has_query_between(rest: str, start: int, end: int) -> bool:
    slash = rest.find("/", start, end)
    return slash >= 0 and _QUERY.search(rest, slash, end) is not None


def _end_of_path(rest: str, start: int) -> int:
    ends = [at for at in (rest.find("?", start), rest.find("#", start)) if at >= 0]
    return min(ends, default=len(rest))


def _secrets(rest: str) -> Iterator[str]:
    """The secrets before and after host and path, as they are written and as they are meant; names are none."""
    readings = _readings(rest)
    if not readings:
        return
    start, end = readings[-1].start, readings[-1].end
    name, colon, password = rest[: max(0, start - 1)].partition(":")
    found = [password] if colon else []
    for pair in re.split("[&;]", rest[end:].lstrip("?#")):
        key, equals, value = pair.partition("=")
        is_number = _PLAIN_VALUE.fullmatch(value) and not _SECRET_NAME.search(key)
        is_plain = is_number or _PLAIN_NAMES.fullmatch(key) or _USER_NAME.fullmatch(key)
        if equals and not is_plain and value != name:
            found.append(value)
        elif not equals and (any(c.isdigit() for c in key) or looks_drawn(key)):
            found.append(key)
    for secret in filter(None, found):
        yield secret
        yield from {unquote(secret), unquote_plus(secret)} - {secret}


def _shown_path(path: str, known: list[str]) -> str:
    shown: list[str] = []
    before = ""
    for segment in path.split("/"):
        plain = unquote(segment)
        hidden = HIDDEN if plain and _SECRET_NAME.fullmatch(before) else _shown_segment(plain, known)
        shown.append(segment if hidden == plain else hidden)
        before = plain
    return "/".join(shown)


def _shown_segment(segment: str, known: list[str]) -> str:
    for secret in known:
        segment = segment.replace(secret, HIDDEN)
    if "=" in segment:
        segment = _PAIR.sub(_shown_pair, segment)
    segment = _SECRET_PREFIX.sub(rf"\g<1>{HIDDEN}", segment)
    segment = _LOGIN.sub(rf"\g<1>:{HIDDEN}", segment)
    if name_password := _NAME_PASSWORD.fullmatch(segment):
        segment = name_password[1] + HIDDEN + name_password[3]
    return HIDDEN if looks_drawn(segment) else segment


def _shown_pair(pair: re.Match[str]) -> str:
    name, value = pair.groups()
    if not value or _SECRET_NAME.search(name):
        return f"{name}={HIDDEN if value else ''}"
    bare = name.lstrip("_?")
    return pair.group() if _PLAIN_NAMES.fullmatch(bare) or _PLAIN_VALUE.fullmatch(value) else f"{name}={HIDDEN}"
