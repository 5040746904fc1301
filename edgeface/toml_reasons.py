"""Why a TOML file or an override does not fit its settings, in a line that names the keys that would."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
from msgspec import inspect

from edgeface.errors import OptionError
from edgeface.registry import nearest

# What text that is no TOML raises: a bad one, one of other bytes, and tables or arrays in one another without end.
NOT_TOML = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def require_no_zero(settings: Any, where: Path | str) -> None:
    """Raises OptionError where a text in the ``settings`` from ``where`` is one that no path and no command can hold.
    """
    zero = _with_zero(settings)
    if zero is not None:
        raise OptionError(f"{where}: {zero!r} has a zero character, which no path and no name may have")


def _with_zero(settings: Any) -> str | None:
    """The first text with a zero character in a setting, or in a tree of them; None where there is none."""
    if isinstance(settings, str):
        return settings if "\0" in settings else None
    inside = settings.values() if isinstance(settings, dict) else settings if isinstance(settings, list) else ()
    return next(filter(None, map(_with_zero, inside)), None)


def reason(error: msgspec.ValidationError, kind: type[msgspec.Struct]) -> str:
    """msgspec's reason, with the place in front, and with the keys that there are where one is not known.

    ``error`` is what decoding to ``kind`` raised.
    """
    # Of a table's keys msgspec says "at `key` in `$.table`".
    what, _, path = str(error).replace(" - at `key` in `$", " - at `$").partition(" - at `$")
    place = path.rstrip("`").lstrip(".")
    path_of_keys = re.findall(r"\w+", re.sub(r"\[[^]]*\]", "", place))
    if what.startswith("Invalid enum value"):
        return _wrong_choice(place, what.removeprefix("Invalid enum value").strip(" '"), kind, path_of_keys)
    if "unknown field" not in what:
        return f"{place}: {what}" if place else what
    name = what.split("`")[1]
    keys = _keys(kind, path_of_keys)
    near = nearest(name, keys)
    hint = f" Did you mean {near!r}?" if near else ""
    if not place:
        return f"no section or key {name!r}.{hint} There are {', '.join(keys)}"
    return f"[{place}] has no key {name!r}.{hint} Its keys are {', '.join(keys)}"


def _wrong_choice(place: str, value: str, kind: type[msgspec.Struct], path: list[str]) -> str:
    choices = [str(choice) for choice in _choices(_at(kind, path))]
    near = nearest(value, choices)
    hint = f" Did you mean {near!r}?" if near else ""
    return f"{place} has no value {value!r}.{hint} Its values are {', '.join(choices)}"


def _choices(found: inspect.Type) -> tuple[Any, ...]:
    """The values of a literal, or of one inside an optional, a list or a tuple; none of another type."""
    if isinstance(found, inspect.LiteralType):
        return found.values
    return next((choices for part in _parts(found) if (choices := _choices(part))), ())


def _keys(kind: type[msgspec.Struct], path: list[str]) -> list[str]:
    """The keys of the struct that lies at a path of keys below ``kind``; none where the path leaves the structs."""
    found = _at(kind, path)
    return [field.encode_name for field in found.fields] if isinstance(found, inspect.StructType) else []


def _at(kind: type[msgspec.Struct], path: list[str]) -> inspect.Type:
    """The type of the value that lies at a path of keys below ``kind``."""
    found: inspect.Type = inspect.type_info(kind)
    for name in path:
        fields = found.fields if isinstance(found, inspect.StructType) else ()
        found = next((_inner(field.type) for field in fields if field.encode_name == name), inspect.AnyType())
    return found


def _inner(found: inspect.Type) -> inspect.Type:
    """The struct inside an optional, a list or a table of structs; else the type itself."""
    inner = [_inner(part) for part in _parts(found)]
    return next((part for part in inner if isinstance(part, inspect.StructType)), found)


def _parts(found: inspect.Type) -> list[Any]:
    parts: list[Any] = list(getattr(found, "types", ()))
    parts += [part for name in ("item_type", "key_type", "value_type") if (part := getattr(found, name, None))]
    return parts + list(getattr(found, "item_types", ()))
