"""Where Delta's jar lies before Spark has fetched or found it; looked for without PySpark, which may be missing too."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

from motorpool.spark.jvm.start_failures import DELTA_PACKAGE

#: Where Spark 4.0 keeps what it fetches, unless `spark.jars.ivy` names another folder.
_IVY = Path(".ivy2.5.2") / "jars"


def find_delta() -> Path | None:
    """The jar of `DELTA_PACKAGE` among Spark's own or in Ivy's folder; None where a first start has to fetch it."""
    group, artifact, version = DELTA_PACKAGE.split(":")
    own, fetched = f"{artifact}-{version}.jar", f"{group}_{artifact}-{version}.jar"
    homes = [Path(os.environ["SPARK_HOME"])] if os.environ.get("SPARK_HOME") else []
    spec = find_spec("pyspark")
    if spec is not None and spec.origin is not None:
        homes.append(Path(spec.origin).parent)
    places = [*(home / "jars" / own for home in homes), Path.home() / _IVY / fetched]
    return next((place for place in places if place.is_file()), None)
