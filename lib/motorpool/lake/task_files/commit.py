"""Files that tasks have written, made part of a Delta table by its Rust library: one commit."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from motorpool.lake.arrow_types import arrow_columns
from motorpool.lake.driver_rows import has_commits, is_plain, open_delta, with_comments
from motorpool.lake.schemas import Table
from motorpool.lake.task_files.write import WrittenFile


def takes_files(folder: Path, table: Table) -> bool:
    """Whether `add_files` can put files into a table: one of this version's columns without features of newer
    writers, or none yet."""
    if not is_plain(folder.absolute()):
        return False
    if not has_commits(folder):
        return True
    there = open_delta(folder)
    if there is None or there.protocol().writer_features:
        return False
    return {f.name for f in there.schema().fields} == set(arrow_columns(table.columns).names)


def add_files(
    folder: Path, table: Table, files: Sequence[WrittenFile], values: Sequence[str], properties: Mapping[str, str]
) -> None:
    """Put files in the place of the partitions of some values, and make the table where there is none.

    Errors as Delta's Rust library has them: where another has committed in between, or this writer is too old.
    """
    from deltalake import DeltaTable, Schema
    from deltalake.transaction import AddAction, RemoveAction, create_table_with_add_actions

    (column,) = table.partition_by
    now = int(datetime.now(UTC).timestamp() * 1000)
    added = [AddAction(f.path, f.n_bytes, {column: f.value}, now, True, _statistics(f)) for f in files]
    if has_commits(folder):
        there = DeltaTable(folder)
        replaced = [(column, "in", list(values))]
        actions: list[AddAction | RemoveAction] = [*added]
        there.create_write_transaction(actions, "overwrite", there.schema(), [column], replaced)
    else:
        schema = Schema.from_arrow(with_comments(arrow_columns(table.columns), table.comments))
        create_table_with_add_actions(
            str(folder.absolute()), schema, added, mode="error", partition_by=[column], configuration=dict(properties)
        )


def _statistics(file: WrittenFile) -> str:
    """What readers skip a file by."""
    lowest, highest = {"image_id": file.lowest}, {"image_id": file.highest}
    return json.dumps(
        {"numRecords": file.n_rows, "minValues": lowest, "maxValues": highest, "nullCount": {"image_id": 0}}
    )
