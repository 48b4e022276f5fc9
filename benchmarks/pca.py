"""PCA from Parquet on disk, fitted and applied, against scikit-learn and Spark MLlib, in one run.

    python benchmarks/pca.py [--images 416314]

Every contender reads the same Parquet files, fits, projects all rows and writes them as Parquet. MLlib computes
the Gram matrix row by row in the JVM, so at 2,560 columns it gets a tenth of the rows.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from harness import DATA, entry, full_case, run_contender, step, stored_vectors, write_report

OUT = DATA / "pca-out"
#: As the tables of a lake tell them.
_WIDTHS = {"efficientnet-b7": 2560, "osnet": 512}


def _source(args: argparse.Namespace) -> str:
    return str(DATA / f"pca-{args.descriptor}-{args.rows}")


def prepare(args: argparse.Namespace) -> dict[str, Any]:
    """Parquet files of the first rows of a descriptor, as ingest would write them."""
    from motorpool.case.arrays import open_array
    from motorpool.case.descriptors import read_vectors
    from motorpool.spark.session import build_session

    spark = build_session(delta=False)
    array = open_array(str(full_case(args.images) / "descriptors" / f"{args.descriptor}.pickle"))
    vectors = read_vectors(spark, {args.descriptor: array}, refuse=True).where(f"image_id < {args.rows}")
    vectors.select("image_id", "vector").write.mode("overwrite").parquet(_source(args))
    return {}


def motorpool(args: argparse.Namespace) -> dict[str, Any]:
    from pyspark.sql import functions as F

    from motorpool.config.run import LakeConfig
    from motorpool.features.fit import Fitter
    from motorpool.features.spec import FeatureSet, Part, Step
    from motorpool.lake import Lake
    from motorpool.pipeline.stages.features import named
    from motorpool.spark.session import build_session

    with step("session"):
        spark = build_session(delta=False)
        # The step runs in a session that has just ingested: its workers are there already.
        tiny = spark.range(100).select(F.col("id").alias("image_id"), F.array(F.rand(1).cast("float")).alias("x"))
        with Fitter(tiny, [FeatureSet("tiny", (Part("x"),), (Step("standard"),))], 0) as fitter:
            fitter.fit()
    lake = Lake(spark, LakeConfig(path=str(OUT), format="parquet"))
    with step("work"):
        wide = stored_vectors(spark, Path(_source(args)), "x")
        spec = FeatureSet("pca", (Part("x"),), (Step("pca", args.components),))
        with Fitter(wide, [spec], 0, widths={"x": _WIDTHS[args.descriptor]}) as fitter:
            with step("fit"):
                (fitted,) = fitter.fit()
            with step("apply and write"):
                lake.replace("features", named(fitter.transform(fitted), "pca"), {"features": ["pca"]})
    assert fitted.spectrum is not None
    return {"explained": fitted.spectrum.explained}


def sklearn(args: argparse.Namespace) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from sklearn.decomposition import PCA

    with step("work"):
        with step("read"):
            table = pq.read_table(_source(args))
            x = table["vector"].combine_chunks().values.to_numpy().reshape(table.num_rows, -1)
        with step("fit and apply"):
            pca = PCA(args.components, svd_solver="covariance_eigh")
            y = pca.fit_transform(x)
        with step("write"):
            offsets = pa.array(np.arange(0, y.size + 1, y.shape[1], dtype=np.int32))
            vector = pa.ListArray.from_arrays(offsets, pa.array(y.reshape(-1)))
            OUT.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.table({"image_id": table["image_id"], "vector": vector}), OUT / "part.parquet")
    return {"explained": float(pca.explained_variance_ratio_.sum())}


def mllib(args: argparse.Namespace) -> dict[str, Any]:
    from pyspark.ml.feature import PCA
    from pyspark.ml.functions import array_to_vector, vector_to_array

    from motorpool.spark.session import build_session

    with step("session"):
        spark = build_session({"spark.driver.memory": "10g"}, delta=False)
    with step("work"):
        data = spark.read.parquet(_source(args)).select("image_id", array_to_vector("vector").alias("v"))
        with step("fit"):
            model = PCA(k=args.components, inputCol="v", outputCol="p").fit(data)
        with step("apply and write"):
            projected = model.transform(data).select("image_id", vector_to_array("p", "float32").alias("vector"))
            projected.write.mode("overwrite").parquet(str(OUT))
    return {"explained": float(sum(model.explainedVariance))}


CONTENDERS = {"prepare": prepare, "motorpool": motorpool, "sklearn": sklearn, "mllib": mllib}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=416_314)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--descriptor", default="efficientnet-b7")
    parser.add_argument("--components", type=int, default=250)
    parser.add_argument("--repeats", type=int, default=3)
    args = entry(CONTENDERS, parser)
    if args is None:
        return
    full_case(args.images)
    tasks = [
        ("efficientnet-b7", args.images, 250, ["motorpool", "sklearn"]),
        ("osnet", args.images, 150, ["motorpool", "sklearn", "mllib"]),
        ("efficientnet-b7", args.images // 10, 250, ["motorpool", "sklearn", "mllib"]),
    ]
    rows: list[list[Any]] = []
    for descriptor, n, components, names in tasks:
        flags = [
            "--images",
            str(args.images),
            "--rows",
            str(n),
            "--descriptor",
            descriptor,
            "--components",
            str(components),
        ]
        run_contender(__file__, "prepare", flags)
        base = 0.0
        for name in names:
            repeats = 1 if name == "mllib" else args.repeats
            outcomes = [run_contender(__file__, name, flags) for _ in range(repeats)]
            outcomes.sort(key=lambda o: o.work_seconds)
            middle = outcomes[len(outcomes) // 2]
            seconds = middle.work_seconds
            base = base or seconds
            inner = {k: round(v[0], 1) for k, v in middle.steps.items() if k != "work"}
            rows.append(
                [f"{descriptor}, {n:,} rows, {components} components", name, repeats, seconds, seconds / base,
                 max(o.peak_gib for o in outcomes), middle.result.get("explained"), json.dumps(inner), middle.failed]
            )  # fmt: skip
        shutil.rmtree(DATA / f"pca-{descriptor}-{n}", ignore_errors=True)
        shutil.rmtree(OUT, ignore_errors=True)
    header = ["task", "contender", "runs", "seconds (median)", "ratio to motorpool", "peak memory (GiB)"]
    header += ["explained variance", "steps (s)", "failed"]
    write_report(
        "pca",
        "PCA from Parquet on disk",
        [("Read, fit, project, write", header, rows)],
        "Seconds leave out starting Python and Spark (the step `session`); memory is of the whole process tree.",
    )


if __name__ == "__main__":
    main()
