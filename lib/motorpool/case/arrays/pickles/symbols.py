"""The symbols that stand for objects in a pickle, and words for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from motorpool.case.arrays.laid_out import RawLayout
from motorpool.case.arrays.pickles.names import WRAPPER_KEYS, Global
from motorpool.case.arrays.pickles.window import MAX_TEXT
from motorpool.errors import CaseError

# Longer tuples are no part of an array, so they need not be held.
_MAX_TUPLE = 10


@dataclass(slots=True)
class String:
    """Bytes, text, or Python 2's str, which is either. `head` is all of it if short, else empty."""

    offset: int
    nbytes: int
    head: bytes
    kind: Literal["bytes", "text", "either", "latin1"]  # latin1: text turned into bytes by _codecs.encode


@dataclass(slots=True)
class Dtype:
    """A type of values: `code` is f4 and the like; its byte order comes later, when it is built."""

    code: str
    order: str = "="
    built: bool = False


@dataclass(slots=True, eq=False)
class Array:
    """An array: unbuilt at first, then with a layout, or with a `fault` that says why it has none.

    `mask` is where a masked array says which values are missing. `key` is its place in what holds it, as a
    subscript. `wrapped`: joblib's stand-in, whose values follow it as they are.
    """

    masked: bool = False
    wrapped: bool = False
    layout: RawLayout | None = None
    fault: CaseError | None = None
    mask: String | None = None
    shape: tuple[int, ...] = ()
    key: str = ""
    counted: bool = False

    @property
    def built(self) -> bool:
        return self.layout is not None or self.fault is not None


@dataclass(slots=True)
class Mapping:
    """A dict. Only what describes an array is kept of it."""

    entries: dict[str, object] | None = None

    def put(self, key: object, value: object) -> None:
        """Take over one entry."""
        name_array(value, key)
        if (name := short_text(key)) in WRAPPER_KEYS and _is_plain(value):
            self.entries = self.entries or {}
            self.entries[str(name)] = value


@dataclass(slots=True)
class Sequence:
    """A list, of which only the length is kept."""

    length: int = 0

    def append(self, value: object) -> None:
        """Take over one item."""
        name_array(value, self.length)
        self.length += 1


@dataclass(slots=True)
class Storage:
    """The `count` values of torch tensors, of type `code` and byte order `order`, at file offset `offset`.

    Without an offset it is not known where they are.
    """

    code: str
    order: str
    count: int
    offset: int | None


@dataclass(slots=True)
class Other:
    """Something that is no part of an array, in words. `holds`: whether it can hold arrays."""

    what: str
    holds: bool = False


@dataclass(slots=True)
class Skipped:
    """`count` items of a long tuple that were taken off the stack."""

    count: int = 0


def make_tuple(items: list[object]) -> object:
    """The tuple of `items`, which are short and flat for arrays; all else is `Other`, and its arrays get names."""
    place, nested = 0, False
    for item in items:
        kind = type(item)
        if kind is Array:
            name_array(item, place)
        nested = nested or kind is tuple
        place += item.count if isinstance(item, Skipped) else 1
    if place > _MAX_TUPLE or place != len(items):
        return Other(f"a tuple of {place:,}", holds=True)
    if not nested:
        return tuple(items)
    # A tuple in a tuple in a tuple is no part of an array; without this, they would be held to any depth.
    return tuple(Other("a tuple", holds=True) if _is_nested(item) else item for item in items)


def _is_plain(value: object) -> bool:
    """Whether `value` can describe an array: a name, a number, a shape."""
    return all(type(size) is int for size in value) if isinstance(value, tuple) else not isinstance(value, Array)


def _is_nested(item: object) -> bool:
    return isinstance(item, tuple) and any(isinstance(inner, tuple) for inner in item)


def name_array(item: object, place: object) -> None:
    """Give an array its place in what holds it, where it has none yet."""
    if isinstance(item, Array) and not item.key:
        text = short_text(place)
        item.key = f"[{text[:60]!a}]" if text is not None else f"[{place}]" if type(place) is int else "[...]"


def short_text(item: object) -> str | None:
    """The text of a short string symbol, None for anything else."""
    if not isinstance(item, String) or item.kind not in ("text", "either") or item.nbytes > MAX_TEXT:
        return None
    return item.head.decode("utf-8", errors="backslashreplace")


def describe(item: object) -> str:
    """What a symbol is, in words, without printing anything long or nested."""
    if isinstance(item, tuple):
        return f"a tuple of {len(item)}"
    if item is None:
        return "None"
    if isinstance(item, Global):
        return str(item)
    if isinstance(item, Other):
        return item.what
    named = {
        String: "text or bytes",
        Array: "an array",
        Dtype: "a dtype",
        Mapping: "a dict",
        Sequence: "a list",
        Storage: "the values of a tensor",
        int: "a number",
        bool: "a boolean",
    }
    return named.get(type(item), "an unfinished tuple")


def printable(name: str) -> str:
    """A name from a file that may be hostile, fit for a terminal and a log line."""
    return name if name.isprintable() else ascii(name)
