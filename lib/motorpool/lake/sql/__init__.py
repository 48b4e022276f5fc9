"""SQL over a lake in a folder, answered by DuckDB in this process: no JVM, and the answers are Spark's."""

from __future__ import annotations


class NotUnderstoodError(Exception):
    """A query that DuckDB does not answer here, or not as Spark does; the text says why."""


class UnknownTableError(Exception):
    """A query names a table that is not there; the text is its name."""
