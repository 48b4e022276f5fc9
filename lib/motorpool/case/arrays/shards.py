"""An array in a folder of .npy files, one below the other in the order of the numbers in their names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from motorpool.case.arrays.array_file import ArrayFile, Split
from motorpool.case.arrays.npy import open_npy
from motorpool.case.files import join, list_dir, open_file, redact
from motorpool.errors import CaseError
from motorpool.texts import by_number

#: Files of a folder: each is opened for its header.
_MAX_SHARDS = 100_000


def open_shards(path: str) -> ArrayFile:
    """The array in the folder `path`: its files that end in .npy, of which only the headers are read.

    CaseError where there is none, or one is no array, of another width or of another type.
    """
    name = redact(path)
    entries = [e for e in list_dir(path) if e.lower().endswith(".npy") and not e.startswith((".", "_"))]
    if not entries:
        raise CaseError(f"{name}: the folder holds no .npy file. Name a file, or a folder of .npy shards")
    if len(entries) > _MAX_SHARDS:
        raise CaseError(f"{name}: holds {len(entries):,} .npy files, where {_MAX_SHARDS:,} are allowed: join some")
    shards = []
    for entry in sorted(entries, key=by_number):
        file = join(path, entry)
        with open_file(file) as f:
            shards.append(open_npy(file, f, f.size()))
    first = shards[0]
    for shard in shards:
        if (shard.shape[1], shard.dtype) != (first.shape[1], first.dtype):
            raise CaseError(
                f"{shard.name}: holds {shard.shape[1]:,} columns of {shard.dtype}, but {first.name} {first.shape[1]:,} "
                f"of {first.dtype}: the shards of a folder must be alike"
            )
    rows = sum(shard.shape[0] for shard in shards)
    size = sum(shard.size for shard in shards)
    return _Shards(path, (rows, first.shape[1]), first.dtype, size, tuple(shards))


@dataclass(frozen=True)
class _Shards(ArrayFile):
    """`Split.at` begins with the number of the shard; a split is of one shard."""

    shards: tuple[ArrayFile, ...]

    def splits(self, rows: int) -> list[Split]:
        found, before = [], 0
        for number, shard in enumerate(self.shards):
            found += [Split(before + s.first, s.rows, (number, *s.at)) for s in shard.splits(rows)]
            before += shard.shape[0]
        return found

    def read(self, split: Split, rows: int) -> Iterator[tuple[int, np.ndarray]]:
        number, *at = split.at
        before = sum(shard.shape[0] for shard in self.shards[:number])
        own = replace(split, first=split.first - before, at=tuple(at))
        for first, x in self.shards[number].read(own, rows):
            yield before + first, x
