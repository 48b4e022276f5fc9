"""What a pickle writes once and names again: the few things that can matter are kept, the rest is forgotten.

Memory: at most `_MOST` entries. A list of a million paths puts a million texts here; none of them stays.
"""

from __future__ import annotations

from motorpool.case.arrays.array_file import COPY_AGAIN
from motorpool.case.arrays.pickles.names import WORDS, Global
from motorpool.case.arrays.pickles.symbols import Array, Dtype, Other, String
from motorpool.case.arrays.pickles.window import Window

# Real pickles keep some dozens.
_MOST = 1 << 16
_FORGOTTEN = Other("something that came before")


class Memo:
    """Items by number. A number that was given and forgotten is `Other`; one beyond all given ones is damage."""

    def __init__(self, window: Window) -> None:
        self._window = window
        self._kept: dict[int, object] = {}
        self._next = 0

    def append(self, item: object) -> None:
        """Put `item` under the next number."""
        # A real unpickler counts the entries, which is the same unless two ways of numbering are mixed.
        self.put(self._next, item)

    def put(self, index: int, item: object) -> None:
        """Put `item` under `index`."""
        self._next = max(self._next, index + 1)
        if _matters(item):
            self._kept[index] = item
            if len(self._kept) > _MOST:
                raise self._window.refusal(f"names more than {_MOST:,} things, which no pickle of an array does")
        elif self._kept:
            self._kept.pop(index, None)

    def get(self, index: int) -> object:
        """The item under `index`."""
        if not 0 <= index < self._next:
            raise self._window.refusal(f"is a damaged pickle: memo entry {index} does not exist", COPY_AGAIN)
        return self._kept.get(index, _FORGOTTEN)


def _matters(item: object) -> bool:
    """Whether a pickle of arrays may come back to `item` and mean more than that it is there."""
    kind = type(item)
    if kind is String:
        return item.nbytes < 32 and item.head in WORDS  # type: ignore[attr-defined]
    # Masked arrays share one (0,). Python never numbers integers, so other writers' come in no numbers.
    return kind in (Global, Dtype, Array, int) or item == (0,)
