"""The photos to look at, in groups of look-alikes, handed out in batches: each photo to one person at a time."""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pyarrow as pa

#: Photos that are shown together.
BATCH = 24

#: ``suggested``: photos that share a suggested value. ``cluster``: photos of a cluster, or of a part of it. ``single``:
#: photos that have nothing in common, each of which gets its own value.
Kind = Literal["suggested", "cluster", "single"]


@dataclass(frozen=True)
class Photos:
    """The photos of a review; row i of all columns is one photo.

    Memory: 17 bytes a photo and the text of its path and note.
    """

    #: int64[n], ascending.
    image_id: np.ndarray
    #: string[n], as the table `images` has them.
    path: pa.Array
    #: string[n], what else the person may want to know: how sure the suggestion is, or why the photo was drawn.
    note: pa.Array

    def rows_of(self, image_ids: Sequence[int]) -> list[int | None]:
        """The row of each image; None for images that are not in the review."""
        if not len(self.image_id):
            return [None] * len(image_ids)
        # Numbers come from browsers: beyond int64 there are no images.
        found = np.searchsorted(self.image_id, [min(max(i, -1), 2**62) for i in image_ids])
        rows = np.minimum(found, len(self.image_id) - 1)
        return [int(r) if self.image_id[r] == i else None for r, i in zip(rows, image_ids, strict=True)]


@dataclass(frozen=True)
class Group:
    """Photos that are looked at together; ``rows`` int64[k] in the order in which they are shown."""

    title: str
    kind: Kind
    value: str | None
    rows: np.ndarray


@dataclass(frozen=True)
class Parts:
    """What clusters can be split by; float32[n] and int32[n], or None. Rows are those of `Photos`."""

    distance: np.ndarray | None = None
    finer: np.ndarray | None = None


@dataclass(frozen=True)
class Batch:
    """Photos that one person looks at: ``rows`` of the queue's photos, of the group with this number."""

    id: str
    group: int
    title: str
    kind: Kind
    value: str | None
    rows: list[int]
    #: What the person said about these photos before it was taken back, by row.
    given: Mapping[int, str | None] = field(default_factory=dict)


@dataclass
class _Stack:
    """A group and how far it has come: rows before ``at`` were handed out once, ``back`` are those that came back."""

    group: Group
    #: Photos that nobody has answered.
    n_left: int
    #: Of these the ones that lie before somebody.
    n_out: int = 0
    value: str | None = None
    at: int = 0
    n_batches: int = 0
    back: deque[int] = field(default_factory=deque)


class Queue:
    """Hands out the photos of all groups; for one thread at a time.

    A photo is *done* once somebody has answered it, and *out* while it lies before somebody: neither is handed out.
    Handing out a batch looks at the rows behind the last one only, so its time does not grow with the number of photos.
    """

    def __init__(self, photos: Photos, groups: Iterable[Group], done: np.ndarray, parts: Parts | None = None) -> None:
        """``done`` bool[n]: photos that were answered before."""
        self.photos = photos
        self._parts = parts or Parts()
        n = len(photos.image_id)
        self._done = done.copy()
        self._out = np.zeros(n, bool)
        #: The number of each photo's group.
        self._group = np.full(n, -1, np.int32)
        self._stacks: list[_Stack] = []
        for group in groups:
            self._add(group)
        self.n_photos = int(np.sum(self._group >= 0))

    def _add(self, group: Group) -> int:
        number = len(self._stacks)
        self._group[group.rows] = number
        n_left = int(np.sum(~self._done[group.rows]))
        n_out = int(np.sum(self._out[group.rows] & ~self._done[group.rows]))
        self._stacks.append(_Stack(group, n_left, n_out, group.value))
        return number

    @property
    def n_done(self) -> int:
        return self.n_photos - sum(stack.n_left for stack in self._stacks)

    @property
    def n_out(self) -> int:
        """Photos that lie before somebody."""
        return sum(stack.n_out for stack in self._stacks)

    def groups(self) -> Iterator[tuple[int, str, int]]:
        """Number, title and photos left of every group with any left."""
        for number, stack in enumerate(self._stacks):
            if stack.n_left:
                yield number, stack.group.title, stack.n_left

    # -- handing out -------------------------------------------------------------------------------

    def take(self, wanted: int | None = None, most: int = BATCH) -> Batch | None:
        """At most ``most`` photos of the group ``wanted``, or of the one that is next; None where there are none.

        Of suggested values the one with most photos left comes first; of clusters the one of which least was shown,
        the larger ones first.
        """
        numbers = range(len(self._stacks)) if wanted is None else [wanted]
        able = [i for i in numbers if 0 <= i < len(self._stacks) and self._stacks[i].n_left > self._stacks[i].n_out]
        for number in sorted(able, key=self._place) if most > 0 else ():
            stack = self._stacks[number]
            rows = list(self._next(stack, min(most, BATCH)))
            if rows:
                stack.n_batches += 1
                return self._batch(number, rows)
        return None

    def _place(self, number: int) -> tuple[int, int, int]:
        stack = self._stacks[number]
        shown = stack.n_batches if stack.group.kind == "cluster" else 0
        return shown, -(stack.n_left - stack.n_out), number

    def _next(self, stack: _Stack, most: int) -> Iterator[int]:
        """Rows of a group that are neither done nor out, which are out from now on; those that came back come last."""
        rows = stack.group.rows
        n = 0
        while n < most and (stack.at < len(rows) or stack.back):
            if stack.at < len(rows):
                row = int(rows[stack.at])
                stack.at += 1
            else:
                row = stack.back.popleft()
            # Photos of a group that was split belong to its parts.
            if self._done[row] or self._out[row] or self._stacks[self._group[row]] is not stack:
                continue
            self._set_out(row, True)
            n += 1
            yield row

    def _batch(self, number: int, rows: list[int], given: Mapping[int, str | None] | None = None) -> Batch:
        stack = self._stacks[number]
        return Batch(
            secrets.token_hex(8), number, stack.group.title, stack.group.kind, stack.value, rows, dict(given or {})
        )

    def _set_out(self, row: int, out: bool) -> None:
        if self._out[row] != out:
            self._out[row] = out
            if not self._done[row]:
                self._stacks[self._group[row]].n_out += 1 if out else -1

    # -- what becomes of a batch -------------------------------------------------------------------

    def put_back(self, batch: Batch) -> None:
        """Photos that were not answered come again, behind all others of their group."""
        for row in batch.rows:
            if self._out[row]:
                self._set_out(row, False)
                if not self._done[row]:
                    self._stacks[self._group[row]].back.append(row)

    def answered(self, rows: Iterable[int]) -> None:
        """Photos that are not handed out again."""
        for row in rows:
            if not self._done[row]:
                self._set_out(row, False)
                self._done[row] = True
                self._stacks[self._group[row]].n_left -= 1

    def reopen(self, given: Mapping[int, str | None], open_again: Iterable[int]) -> Batch:
        """The photos of an answer that was taken back, as a batch; ``open_again`` are those that have no answer now.

        They lie before the person as they did, under the title of the first photo's group.
        """
        for row in open_again:
            if self._done[row]:
                self._done[row] = False
                self._stacks[self._group[row]].n_left += 1
            self._set_out(row, True)
        rows = list(given)
        return self._batch(int(self._group[rows[0]]), rows, given)

    # -- clusters ----------------------------------------------------------------------------------

    def name(self, number: int, value: str, n_batches: int = 0) -> None:
        """Suggest a value for the photos of a cluster that nobody has looked at yet."""
        stack = self._stacks[number]
        if stack.group.kind == "cluster":
            stack.value = value
            stack.n_batches = max(stack.n_batches, n_batches)

    def group_of(self, row: int) -> int:
        return int(self._group[row])

    def split(self, number: int) -> int:
        """Show a cluster in parts: by the clusters of a finer model, or else nearer and farther photos.

        Returns the number of parts, 0 where nothing can be split: it is no cluster, or has one photo left.
        """
        stack = self._stacks[number]
        rows = stack.group.rows[~self._done[stack.group.rows]]
        # Of a cluster that was split already only the photos that were not.
        rows = rows[self._group[rows] == number]
        if stack.group.kind != "cluster" or len(rows) < 2:
            return 0
        found = self._cut(rows)
        for title, part in found:
            self._add(Group(f"{stack.group.title}, {title}", "cluster", None, part))
        stack.n_left = stack.n_out = 0
        stack.back.clear()
        return len(found)

    def _cut(self, rows: np.ndarray) -> list[tuple[str, np.ndarray]]:
        if self._parts.finer is not None:
            codes = self._parts.finer[rows]
            values = np.unique(codes)
            if len(values) > 1:
                return [(f"part {i + 1} of {len(values)}", rows[codes == v]) for i, v in enumerate(values)]
        if self._parts.distance is not None:
            near = np.argsort(self._parts.distance[rows], kind="stable")
            # In the order in which they are shown, which is not that of distances.
            is_near = np.zeros(len(rows), bool)
            is_near[near[: len(rows) // 2]] = True
        else:
            is_near = np.arange(len(rows)) < len(rows) // 2
        return [("nearer half", rows[is_near]), ("farther half", rows[~is_near])]
