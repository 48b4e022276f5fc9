"""SQL over a lake in a folder, answered by DuckDB in this process: no JVM, and the answers are Spark's."""
