"""A registry: entries by name that a config can name, and that an extension can add to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol, TypeVar


class Named(Protocol):
    """An entry of a registry."""

    @property
    def name(self) -> str: ...


_T = TypeVar("_T", bound=Named)


class Registry(Mapping[str, _T]):
    """Entries by their names, in the order in which they were registered: messages and pages list them so.

    ``what`` is what errors call an entry. ``check`` raises ValueError for an entry that cannot be registered.
    """

    def __init__(self, what: str, entries: Iterable[_T] = (), check: Callable[[_T], None] | None = None) -> None:
        self._what = what
        self._check = check
        self._entries: dict[str, _T] = {}
        for entry in entries:
            self.register(entry)

    def register(self, entry: _T) -> None:
        """Add an entry behind the others; ValueError for a name that is taken, and where ``check`` refuses it."""
        if entry.name in self._entries:
            raise ValueError(f"{self._what} {entry.name!r}: is registered already")
        if self._check is not None:
            self._check(entry)
        self._entries[entry.name] = entry

    def unregister(self, name: str) -> None:
        """Take an entry out again; KeyError where there is none of this name."""
        del self._entries[name]

    def __getitem__(self, name: str) -> _T:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
