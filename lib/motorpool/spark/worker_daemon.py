"""PySpark's daemon of Python workers, without Spark's own archives on its path.

Spark puts pyspark.zip, py4j's zip and the jar of its core on the path of its workers. Before each task a worker calls
``importlib.invalidate_caches``, and Python before 3.13 then reads the directories of all three again (CPython's issue
103200): some 80 ms of a core, as much as a task of this package often takes. Where workers run the driver's
interpreter, pyspark is installed beside it, so nothing is missed.
"""

import re
import sys

_ARCHIVE = re.compile(r"(^|/)(pyspark\.zip|py4j-[^/]*\.zip|spark-core_[^/]*\.jar)$")


def without_archives(path: list[str]) -> list[str]:
    """A module search path without Spark's archives; those of others stay."""
    return [entry for entry in path if not _ARCHIVE.search(entry)]


if __name__ == "__main__":
    sys.path[:] = without_archives(sys.path)
    for entry in [entry for entry in sys.path_importer_cache if _ARCHIVE.search(entry)]:
        del sys.path_importer_cache[entry]

    from pyspark.daemon import manager

    manager()  # type: ignore[no-untyped-call]
