"""Photos inside tables: Hugging Face's ``struct<bytes, path>`` and Spark's binaryFile (``path``, ``content``).

A table is a Parquet file, a folder of them, or the folder of a Delta table. Photos are read a row at a time; what lies
before a row in its row group is passed over, so that tasks that go forward read each row group once.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from motorpool.case import files
from motorpool.case.arrays.array_file import COPY_AGAIN, explained
from motorpool.case.parquet_footer import open_parquet_file
from motorpool.case.parquet_tables import part_files
from motorpool.case.photo_files.reader import NoPhotoError, PhotoFiles, checked_size
from motorpool.errors import CaseError
from motorpool.texts import by_number, plain_path

#: Paths of a batch.
_NAMES = 8192
#: The columns of Spark's binaryFile, and the parts of Hugging Face's column.
_PATH, _BYTES = "path", "bytes"


@dataclass(frozen=True)
class _Part:
    """A Parquet file: its name below the root without the ending, its size, and the rows of its row groups."""

    path: str
    name: str
    size: int
    group_rows: tuple[int, ...]

    @property
    def rows(self) -> int:
        return sum(self.group_rows)


@dataclass(frozen=True)
class _Columns:
    """Where a table holds the photos' bytes and paths, as Parquet names leaves: ``image.bytes``, ``image.path``."""

    content: str
    path: str


class TablePhotos(PhotoFiles):
    """Photos in the rows of a table.

    A photo goes by the path that the table gives it. Where rows have none, or share one, all go by the file and the
    number of the row in it: ``train-00000-of-00002/000017``. Memory: some 0.25 KB a photo.
    """

    def __init__(self, parts: tuple[_Part, ...], columns: _Columns) -> None:
        self._parts, self._columns = parts, columns
        self._firsts = [0, *accumulate(part.rows for part in parts)]
        self._rows = self._by_path() or self._by_number()
        self._cursor: _Cursor | None = None

    def _by_path(self) -> dict[str, int] | None:
        found: dict[str, int] = {}
        for path in (p for part in self._parts for p in _paths_of(part, self._columns.path)):
            if not path or path in found:
                return None
            found[path] = len(found)
        return found

    def _by_number(self) -> dict[str, int]:
        names = (f"{part.name}/{row:06d}" for part in self._parts for row in range(part.rows))
        return {name: row for row, name in enumerate(names)}

    def has(self, path: str) -> bool:
        return plain_path(path) in self._rows

    def read(self, path: str) -> bytes:
        row = self._rows.get(plain_path(path))
        if row is None:
            raise NoPhotoError("missing", "no row of the table has this path")
        at = bisect_right(self._firsts, row) - 1
        part, row = self._parts[at], row - self._firsts[at]
        groups = [0, *accumulate(part.group_rows)]
        group = bisect_right(groups, row) - 1
        try:
            data = self._bytes_at(part, group, row - groups[group])
        except (NoPhotoError, MemoryError):
            raise
        except Exception as exc:  # Damage shows in many ways: one photo the less.
            self._cursor = None
            raise NoPhotoError("broken", f"its row cannot be read: {exc}") from exc
        if data is None:
            raise NoPhotoError("missing", "its row holds no bytes")
        return data

    def _bytes_at(self, part: _Part, group: int, row: int) -> bytes | None:
        cursor = self._cursor
        if cursor is None or (cursor.part, cursor.group) != (part, group) or cursor.row > row:
            if cursor is not None:
                cursor.close()
            cursor = self._cursor = _Cursor(part, group, self._columns.content)
        return cursor.value(row)

    def names(self) -> Iterator[str]:
        """In the order of the rows."""
        yield from self._rows


class _Cursor:
    """One row group, read forward row by row; memory: a page, and the row."""

    def __init__(self, part: _Part, group: int, column: str) -> None:
        self.part, self.group, self.row = part, group, 0
        self._stack = ExitStack()
        f = self._stack.enter_context(_opened(part))
        parquet = self._stack.enter_context(open_parquet_file(f, files.redact(part.path)))
        self._batches = parquet.iter_batches(1, [group], [column], use_threads=False)

    def value(self, row: int) -> bytes | None:
        """The bytes of a row that has not been passed yet."""
        while self.row < row:
            next(self._batches)
            self.row += 1
        values = _leaf(next(self._batches))
        self.row += 1
        if not values[0].is_valid:
            return None
        checked_size(values[0].as_buffer().size)
        return bytes(values[0].as_py())

    def close(self) -> None:
        self._stack.close()


def _leaf(batch: pa.RecordBatch) -> pa.Array:
    """The one column of a batch, or the one field of it; a struct that is null has fields that are null."""
    values = batch.column(0)
    return values.flatten()[0] if pa.types.is_struct(values.type) else values


def _opened(part: _Part) -> pa.NativeFile:
    f = files.open_file(part.path)
    if f.size() != part.size:
        f.close()
        raise CaseError(f"{files.redact(part.path)}: has changed while it is read. Start again")
    return f


def _paths_of(part: _Part, column: str) -> Iterator[str | None]:
    """The paths of a file's rows, None for those that have none."""
    name, n = files.redact(part.path), 0
    with (
        explained(f"{name}: column {column} cannot be read"),
        _opened(part) as f,
        open_parquet_file(f, name) as parquet,
    ):
        for batch in parquet.iter_batches(_NAMES, columns=[column], use_threads=False):
            n += batch.num_rows
            for text in _leaf(batch).to_pylist():
                yield None if text is None else plain_path(text)
    if n != part.rows:
        raise CaseError(f"{name}: holds {n:,} paths, but says that it has {part.rows:,} rows. {COPY_AGAIN}")


def photo_columns(schema: pa.Schema, name: str) -> _Columns:
    """The columns of the photos; CaseError where none, or more than one, can be those."""
    images = [f.name for f in schema if _is_image(f.type)]
    contents = [f.name for f in schema if _is_binary(f.type)]
    if len(images) == 1:
        return _Columns(f"{images[0]}.{_BYTES}", f"{images[0]}.{_PATH}")
    if not images and len(contents) == 1 and _PATH in schema.names and _is_text(schema.field(_PATH).type):
        return _Columns(contents[0], _PATH)
    found = ", ".join(f"{f.name} {f.type}" for f in schema)[:300]
    raise CaseError(
        f"{name}: does not say which column holds the photos: expected one struct of `bytes` and `path`, as Hugging "
        f"Face writes it, or one binary column beside a column `path`, as Spark's binaryFile; found {found}. Write a "
        "table with one of these"
    )


def _is_image(kind: pa.DataType) -> bool:
    if not pa.types.is_struct(kind):
        return False
    fields = {kind.field(i).name: kind.field(i).type for i in range(kind.num_fields)}
    return set(fields) == {_BYTES, _PATH} and _is_binary(fields[_BYTES]) and _is_text(fields[_PATH])


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def holds_photos(path: str) -> bool:
    """Whether a Parquet file is a table of photos, and not of what is known of them; CaseError for a damaged one."""
    schema = _footer(path)[2]
    return any(_is_image(f.type) or _is_binary(f.type) for f in schema)


def _footer(path: str) -> tuple[int, tuple[int, ...], pa.Schema]:
    name = files.redact(path)
    with explained(f"{name}: cannot be read as Parquet"), files.open_file(path) as f, open_parquet_file(f, name) as p:
        rows = tuple(p.metadata.row_group(i).num_rows for i in range(p.metadata.num_row_groups))
        if sum(rows) != p.metadata.num_rows or min(rows, default=0) < 0:
            raise CaseError(f"{name}: the footer contradicts itself about the number of rows. {COPY_AGAIN}")
        return f.size(), rows, _stored(p)


def _stored(parquet: pq.ParquetFile) -> pa.Schema:
    """The columns by what is stored: what Arrow's own note in the footer makes of them may differ."""
    return parquet.schema.to_arrow_schema()


def open_table(root: str) -> TablePhotos:
    """The photos in a Parquet file, a folder of them, or the folder of a Delta table.

    CaseError where it is none, has no column of photos, or is damaged. Its paths are read once for each process.
    """
    found = _delta_files(root) if files.exists(files.join(root, "_delta_log")) else _parquet_files(root)
    if not found:
        raise CaseError(f"{files.redact(root)}: the folder holds no Parquet file: its files must end in .parquet")
    sizes = tuple(files.file_size(path) for path, _ in found)
    return _kept(root, tuple(found), sizes)


def _parquet_files(root: str) -> list[tuple[str, str]]:
    """Paths of the files, and their names below the root without the ending."""
    if not files.is_folder(root):
        return [(root, PurePosixPath(files.redact(root)).stem)]
    head = files.join(root, "x")[:-1]
    return [(path, path.removeprefix(head)[: -len(".parquet")]) for path, _ in part_files(root)]


def _delta_files(root: str) -> list[tuple[str, str]]:
    """As `_parquet_files`, those of the latest version of a Delta table."""
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError

    name, local = files.redact(root), files.local_path(root)
    if local is None:
        raise CaseError(f"{name}: photos of a Delta table in a store are not read: name a copy on a disk or mount")
    try:
        table = DeltaTable(local)
        deleted = table.deletion_vectors().read_all().num_rows
        uris = table.file_uris()
    except (DeltaError, OSError, ValueError) as exc:
        raise CaseError(f"{name}: this Delta table cannot be read: {files.redact(str(exc))}") from exc
    if deleted:
        raise CaseError(
            f"{name}: has rows that were deleted but are still in its files (deletion vectors): run "
            "`REORG TABLE ... APPLY (PURGE)` on it first"
        )
    return [(uri, PurePosixPath(uri).stem) for uri in sorted(uris, key=by_number)]


@lru_cache(maxsize=1)
def _kept(root: str, found: tuple[tuple[str, str], ...], sizes: tuple[int, ...]) -> TablePhotos:
    """Kept for the tasks to come; other sizes are another table."""
    footers = [_footer(path) for path, _ in found]
    columns = photo_columns(footers[0][2], files.redact(found[0][0]))
    for (path, _), (_, _, schema) in zip(found, footers, strict=True):
        if photo_columns(schema, files.redact(path)) != columns:
            raise CaseError(f"{files.redact(path)}: has the photos in another column than {files.redact(found[0][0])}")
    parts = tuple(_Part(path, name, size, rows) for (path, name), (size, rows, _) in zip(found, footers, strict=True))
    return TablePhotos(parts, columns)
