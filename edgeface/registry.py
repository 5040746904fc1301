"""The one registry shape: a decorated name; a duplicate raises; an unknown name answers with the choices."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from edgeface.errors import DuplicateNameError, UnknownNameError

T = TypeVar("T")


def unknown_name(kind: str, name: str, choices: Iterable[str]) -> str:
    """One line for a name that is not there: ``no target 'nncn'. Did you mean 'ncnn'? Targets: ncnn, onnx.``

    Upper and lower case are alike to the suggestion, so that 'NCNN' is answered with 'ncnn'.
    """
    known = sorted(choices)
    near = nearest(name, known)
    hint = f" Did you mean {near!r}?" if near else ""
    return f"no {kind} {name!r}.{hint} {kind.capitalize()}s: {', '.join(known) or 'none'}."


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """The choice that is spelled most like ``name``, upper and lower case alike; None where none is near."""
    folded = {choice.casefold(): choice for choice in choices}
    near = difflib.get_close_matches(name.casefold(), folded, n=1)
    return folded[near[0]] if near else None


# By kind and name: the module that registers the entry.
_BROUGHT: dict[tuple[str, str], str] = {}


def bring(kind: str, name: str, module: str) -> None:
    """Say which module registers the entry ``name`` of the registry of ``kind``; it is imported when that is asked for.

    For an entry that needs packages above the registry's own, which therefore cannot import it.
    """
    _BROUGHT[kind, name] = module


class Registry(Generic[T]):
    """Named entries of one kind; calling it with a name gives the decorator that registers under that name."""

    def __init__(self, kind: str, error: type[UnknownNameError]) -> None:
        self.kind = kind
        self._error = error
        self._entries: dict[str, T] = {}

    def __call__(self, name: str) -> Callable[[T], T]:
        """Decorator that registers under ``name``; raises DuplicateNameError when the name is taken."""

        def register(entry: T) -> T:
            if name in self._entries:
                raise DuplicateNameError(f"{self.kind} {name!r} is registered twice: rename one of them")
            self._entries[name] = entry
            return entry

        return register

    def get(self, name: str) -> T:
        """The entry of that name; raises the registry's UnknownNameError with the choices."""
        if name not in self._entries and (module := _BROUGHT.get((self.kind, name))):
            importlib.import_module(module)
        if name not in self._entries:
            raise self._error(unknown_name(self.kind, name, self.names()))
        return self._entries[name]

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted({*self._entries, *(name for kind, name in _BROUGHT if kind == self.kind)})
