"""Opening Parquet files safely: what a footer claims is checked before anything is allocated for it."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq

from motorpool.errors import CaseError

#: Bytes of a footer: that of 2,560 columns in a hundred row groups takes 25 MB, and ten times as much in memory.
_MAX_FOOTER = 64 << 20
#: Columns of a table, and numbers of a vector.
MAX_COLUMNS = 100_000
_BUFFERS = 16 << 20
_MAGIC = b"PAR1"


def open_parquet_file(f: pa.NativeFile, name: str) -> pq.ParquetFile:
    """The Parquet file in an open file, to be read by few rows at a time; ``name`` is for messages.

    Raises CaseError for a footer that is larger than the file or than 64 MiB, or that describes more than MAX_COLUMNS
    columns; what Arrow raises for other damage.
    """
    size = f.size()
    f.seek(max(0, size - 8))
    tail = bytes(f.read(8))
    if size < 12 or tail[4:] != _MAGIC:
        raise CaseError(f"{name}: is no Parquet file, or is cut off: it does not end in {_MAGIC.decode()}")
    footer = int.from_bytes(tail[:4], "little")
    if footer + 12 > size or footer > _MAX_FOOTER:
        raise CaseError(
            f"{name}: says that its footer takes {footer:,} of its {size:,} bytes, where {_MAX_FOOTER:,} are allowed. "
            "Write it with fewer columns, for instance one column of lists"
        )
    f.seek(0)
    metadata = pq.read_metadata(f)
    if metadata.num_columns > MAX_COLUMNS:
        raise CaseError(
            f"{name}: has {metadata.num_columns:,} columns, where {MAX_COLUMNS:,} are allowed. Write the vectors as "
            "one column of lists"
        )
    # Without these two, pyarrow fetches whole column chunks, that is a row group, before the first row. Every
    # column has a buffer of its own, and there can be thousands.
    buffer_size = max(1 << 14, _BUFFERS // max(1, metadata.num_columns))
    return pq.ParquetFile(f, metadata=metadata, pre_buffer=False, buffer_size=buffer_size)
