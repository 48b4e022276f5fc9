"""The columns of tables as Arrow has them, from their DDL: Spark's own parser needs a JVM, which takes seconds."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pyarrow as pa

_TYPES = {
    "BIGINT": pa.int64(), "INT": pa.int32(), "DOUBLE": pa.float64(), "FLOAT": pa.float32(), "BOOLEAN": pa.bool_(),
    "STRING": pa.string(), "TIMESTAMP": pa.timestamp("us", "UTC"),
}  # fmt: skip
_NESTED = re.compile(r"(ARRAY|MAP|STRUCT)<(.*)>")


def arrow_columns(ddl: str) -> pa.Schema:
    """``name TYPE, name ARRAY<TYPE>`` as `pyspark.sql` gives it to Arrow; ValueError for a type that no table has."""
    return pa.schema([_field(part, " ") for part in _parts(ddl)])


def sql_type(kind: pa.DataType) -> str:
    """An Arrow type as Spark's DESCRIBE names it; ValueError for one that no table has."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return f"array<{sql_type(kind.value_type)}>"
    if pa.types.is_map(kind):
        return f"map<{sql_type(kind.key_type)},{sql_type(kind.item_type)}>"
    if pa.types.is_struct(kind):
        return f"struct<{','.join(f'{f.name}:{sql_type(f.type)}' for f in kind)}>"
    if pa.types.is_timestamp(kind):
        return "timestamp"
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return "string"
    for name, known in _TYPES.items():
        if known == kind:
            return name.lower()
    raise ValueError(f"{kind}: is the type of no table")


def _field(text: str, mark: str) -> pa.Field:
    name, _, kind = text.partition(mark)
    return pa.field(name.strip(), _type(kind.strip()))


def _type(kind: str) -> pa.DataType:
    nested = _NESTED.fullmatch(kind)
    if nested is None:
        if kind not in _TYPES:
            raise ValueError(f"{kind}: expected {', '.join(_TYPES)}, or an ARRAY, MAP or STRUCT of these")
        return _TYPES[kind]
    parts = list(_parts(nested[2]))
    if nested[1] == "STRUCT":
        return pa.struct([_field(part, ":") for part in parts])
    if nested[1] == "ARRAY":
        return pa.list_(pa.field("element", _type(parts[0])))
    key, value = parts
    return pa.map_(pa.field("key", _type(key), nullable=False), pa.field("value", _type(value)))


def _parts(text: str) -> Iterator[str]:
    """What commas outside of angle brackets separate."""
    depth = start = 0
    for i, c in enumerate(text):
        depth += (c == "<") - (c == ">")
        if c == "," and not depth:
            yield text[start:i].strip()
            start = i + 1
    yield text[start:].strip()
