"""Rows that the driver holds, as Arrow tables: read and written in its own process where it sees the files.

A commit by Spark takes several jobs and a question to the catalog, which is seconds for the dozen rows that most of a
run's tables get at a time. Delta's Rust library and Arrow do the same to the same files in milliseconds.
"""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyarrow import fs

from motorpool.errors import LakeError
from motorpool.lake.arrow_types import arrow_columns
from motorpool.lake.schemas import Table

if TYPE_CHECKING:
    from deltalake import DeltaTable, WriterProperties

Keys = Mapping[str, Sequence[str]]
#: Delta's Rust library takes paths for addresses, in which brackets, percent signs and backslashes mean something else.
_PLAIN = re.compile(r"[\w ./+=,@~-]+")
_CREATED_AT = "created_at"
#: The name of a Parquet table's file where it has no partitions.
ONE_FILE = "data.parquet"
#: Rows of a row group, by which Spark shares a file among tasks: vectors of 100 columns are 1.6 MB.
_ROW_GROUP = 4096


def arrow_rows(table: Table, rows: Iterable[Mapping[str, Any]] | pa.Table) -> pa.Table:
    """Rows, by column or as Arrow has them, in a table's schema; ``created_at`` is now where a row has none.

    LakeError where a row lacks a column.
    """
    schema = arrow_columns(table.columns)
    if isinstance(rows, pa.Table):
        found = rows.select(schema.names).cast(schema)
    else:
        found = pa.Table.from_pylist(_without_maps(table, rows), schema)
    if _CREATED_AT in schema.names:
        now = pa.scalar(datetime.now(UTC), schema.field(_CREATED_AT).type)
        at = schema.get_field_index(_CREATED_AT)
        found = found.set_column(at, schema.field(_CREATED_AT), pc.fill_null(found.column(at), now))
    return found


def _without_maps(table: Table, rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows with lists of pairs for maps, as Arrow takes them."""
    schema = arrow_columns(table.columns)
    names = [name for name in schema.names if name != _CREATED_AT]
    maps = [f.name for f in schema if pa.types.is_map(f.type)]
    found: list[dict[str, Any]] = []
    for row in rows:
        missing = [name for name in names if name not in row]
        if missing:
            raise LakeError(f"table {table.name!r}: the rows to write lack the columns {', '.join(missing)}")
        found.append(dict(row) | {name: list(row[name].items()) for name in maps if row[name] is not None})
    return found


def as_dicts(rows: pa.Table) -> list[dict[str, Any]]:
    """Rows by column, maps as dicts."""
    found: list[dict[str, Any]] = rows.to_pylist(maps_as_pydicts="strict")
    return found


def selected(rows: pa.Table, keys: Keys, images: range | None = None) -> pa.Array:
    """bool[rows]: those that hold one of the values in each of the key columns, and one of the images where given."""
    chosen = pa.repeat(pa.scalar(True), rows.num_rows)
    for key, values in keys.items():
        chosen = pc.and_(chosen, pc.is_in(rows.column(key), pa.array(values).cast(rows.schema.field(key).type)))
    if images is not None:
        ids = rows.column("image_id")
        chosen = pc.and_(chosen, pc.and_(pc.greater_equal(ids, images.start), pc.less(ids, images.stop)))
    return chosen


def delta_dataset(folder: Path, version: int | None = None) -> ds.Dataset | None:
    """A Delta table in a folder, at a version or now; None where this process cannot read it: a newer table, a strange
    path, or a version that is not there."""
    from deltalake.exceptions import DeltaError, DeltaProtocolError

    there = open_delta(folder)
    if there is None:
        return None
    try:
        if version is not None:
            try:
                there.load_as_version(version)
            except DeltaError:
                return None
        return there.to_pyarrow_dataset(filesystem=_local(folder))
    except DeltaProtocolError:
        return None


def parquet_dataset(folder: Path, table: Table) -> ds.Dataset:
    """A table of a Parquet lake: one file, or a folder for each value of its one partition column."""
    if not table.partition_by:
        return ds.dataset(ONE_FILE, filesystem=_local(folder), format="parquet")
    schema = arrow_columns(table.columns)
    partitions = ds.partitioning(pa.schema([schema.field(c) for c in table.partition_by]), flavor="hive")
    return ds.dataset("", filesystem=_local(folder), format="parquet", schema=schema, partitioning=partitions)


def _local(folder: Path) -> fs.FileSystem:
    """Arrow's own way to files: threads of Delta's now and then abort the process when it ends."""
    return fs.SubTreeFileSystem(str(folder.absolute()), fs.LocalFileSystem())


def read_rows(data: ds.Dataset, table: Table, columns: Sequence[str], keys: Keys) -> pa.Table:
    """The rows of the keys' values, in the columns asked for, or all."""
    names = [name for name in columns if name in data.schema.names] or None
    return _whole(data.to_table(columns=names, filter=condition(table, keys)), table, columns)


def count_rows(data: ds.Dataset, table: Table, keys: Keys) -> int:
    """How many rows have the keys' values."""
    return int(data.count_rows(filter=condition(table, keys)))


def condition(table: Table, keys: Keys) -> pc.Expression | None:
    """Arrow's filter that each of the key columns holds one of its values; None for all rows."""
    schema = arrow_columns(table.columns)
    wanted = [pc.field(k).isin(pa.array(v).cast(schema.field(k).type)) for k, v in keys.items()]
    return functools.reduce(operator.and_, wanted) if wanted else None


def replace_in_delta(
    folder: Path, table: Table, rows: pa.Table, predicate: str | None, properties: Mapping[str, str]
) -> bool:
    """Put rows in the place of those that a predicate names (None: all), and make the table where there is none.

    One commit; the rows lie in the order given. False where this writer cannot, for a newer table or a strange path:
    nothing is done.
    """
    from deltalake import write_deltalake
    from deltalake.exceptions import DeltaProtocolError

    if not is_plain(folder):
        return False
    if not has_commits(folder):
        write_deltalake(
            folder,
            _commented(rows, table.comments),
            mode="error",
            partition_by=list(table.partition_by) or None,
            configuration=dict(properties),
            writer_properties=_written(),
        )
        return True
    there = open_delta(folder)
    if there is None:
        return False
    # Another comment than a column has would be refused.
    comments = {**table.comments, **{f.name: f.metadata.get("comment") for f in there.schema().fields}}
    try:
        # Merged, since the rows may have columns that the table had not yet when it was made.
        write_deltalake(
            there,
            _commented(rows, comments),
            mode="overwrite",
            predicate=predicate,
            schema_mode="merge",
            writer_properties=_written(),
        )
    except DeltaProtocolError:
        return False
    return True


def _commented(rows: pa.Table, comments: Mapping[str, str | None]) -> pa.Table:
    """The rows, in one batch, with the comments of their columns, which Delta keeps."""
    # Several batches are written side by side, and lie in the file in the order in which they were done.
    return rows.cast(with_comments(rows.schema, comments)).combine_chunks()


def with_comments(schema: pa.Schema, comments: Mapping[str, str | None]) -> pa.Schema:
    """Columns with their comments, as Delta's Rust library takes them."""
    told = {name: {"comment": comment} for name, comment in comments.items() if comment is not None}
    return pa.schema([f.with_metadata(told.get(f.name, {})) for f in schema])


def _written() -> WriterProperties:
    from deltalake import WriterProperties

    return WriterProperties(max_row_group_size=_ROW_GROUP)


def is_plain(folder: Path) -> bool:
    """Whether Delta's Rust library takes a folder for what it is."""
    return _PLAIN.fullmatch(str(folder)) is not None


def open_delta(folder: Path) -> DeltaTable | None:
    """A Delta table; None where the Rust library cannot: a newer table, or a strange path."""
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaProtocolError

    if not is_plain(folder):
        return None
    try:
        return DeltaTable(folder)
    except DeltaProtocolError:
        return None


def has_commits(folder: Path) -> bool:
    """Whether a folder is a Delta table."""
    logs = folder / "_delta_log"
    return any(True for pattern in ("*.json", "*.parquet", "_last_checkpoint") for _ in logs.glob(pattern))


def _whole(found: pa.Table, table: Table, columns: Sequence[str]) -> pa.Table:
    """The columns asked for, or all; nulls in those that the table had not yet when it was written."""
    schema = arrow_columns(table.columns)
    for name in columns or schema.names:
        if name not in found.column_names:
            found = found.append_column(schema.field(name), pa.nulls(found.num_rows, schema.field(name).type))
    return found.select(list(columns) or list(dict.fromkeys([*schema.names, *found.column_names])))


def write_file(
    folder: Path, table: Table, rows: pa.Table, old: Path | None, keys: Keys, images: range | None = None
) -> None:
    """Write rows, and behind them those of the table in the folder ``old`` that `selected` leaves out."""
    if old is not None:
        before = read_rows(parquet_dataset(old, table), table, (), {})
        kept = before.filter(pc.invert(selected(before, keys, images)))
        rows = pa.concat_tables([rows, kept.select(rows.schema.names).cast(rows.schema)])
    # As Spark writes them, and reads them fastest.
    pq.write_table(rows, folder / ONE_FILE, compression="snappy")


def write_partitions(folder: Path, table: Table, rows: pa.Table) -> None:
    """Write rows into a new folder for each value of the table's one partition column, all in ``folder``."""
    (column,) = table.partition_by
    for value in pc.unique(rows.column(column)).to_pylist():
        part = folder / f"{column}={value}"
        part.mkdir(parents=True)
        own = rows.filter(pc.equal(rows.column(column), value)).drop_columns([column])
        pq.write_table(own, part / ONE_FILE, row_group_size=_ROW_GROUP, compression="zstd", compression_level=1)
