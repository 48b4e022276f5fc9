"""Two public reports of RAPIDS failing on large tables, repeated by `gpu.py`: made tables, ours beside the libraries.

- ``many``: DBSCAN of 5,000,000 x 768 float32 (NVIDIA/cuml#5393, a crash: more numbers than an int32 counts), by cuML
  alone and by Motorpool, on a tenth of the rows first, since the time grows with their square.
- ``beyond``: PCA and KMeans on a table larger than the GPU's memory (NVIDIA/cuml-spark#786: out of memory on 16 GiB
  from 8 GB on), by spark-rapids-ml and by Motorpool. All of the GPU but --gpu-left GiB is taken before, so that 22 GiB
  of 2,000,000 x 3,000 are larger than what there is.

Both tables are clouds whose clusters are known, so what is found can be judged.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from harness import DATA, step, stored_vectors

MANY, BEYOND = DATA / "gpu-many", DATA / "gpu-beyond"
#: Rows of a cloud, and the share of rows that are far from all others.
CLOUD_ROWS, ALONE = 1000, 0.1
COLUMNS = 768
EPS, MIN_SAMPLES = 4.5, 8
#: Clouds of the table that is larger than memory; components and clusters that are fitted.
CLOUDS, KEPT, KS = 20, 50, (10, 20)
_CHUNK = 50_000


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--many-rows", type=int, default=5_000_000, help="rows of 768 columns for DBSCAN")
    parser.add_argument("--beyond-rows", type=int, default=2_000_000, help="rows of the table larger than memory")
    parser.add_argument("--beyond-columns", type=int, default=3000, help="columns of it, at least 50")
    parser.add_argument("--gpu-left", type=float, default=16.0, help="GiB of the GPU that are left for that table")


#: How the tables are made.
NOTES = (
    f"DBSCAN with eps {EPS} and min_samples {MIN_SAMPLES} on clouds of {CLOUD_ROWS:,} rows, {ALONE:.0%} of all rows "
    f"far from every other; PCA {KEPT} and KMeans {KS} on {CLOUDS} clouds, with --gpu-left GiB of the GPU free."
)
#: Those of `add_options`.
OPTIONS = ("many_rows", "beyond_rows", "beyond_columns", "gpu_left")


def asked(args: argparse.Namespace) -> Iterator[tuple[str, str, list[str]]]:
    """The contenders in their order: a name of the run, the contender, and its further options."""
    ours, theirs = ("gpu", "cuml") if args.accelerator == "gpu" else ("arrays", "sklearn")
    for rows in (args.many_rows // 10, args.many_rows):
        for who, contender in ((theirs, "many_alone"), (ours, "many")):
            # Without a GPU the library runs on the tenth alone: it holds all lists of neighbours.
            if who != "sklearn" or rows < args.many_rows:
                yield f"DBSCAN, {rows:,} x {COLUMNS}: {who}", contender, ["--rows", str(rows)]
    for who, contender in ((ours, "beyond"), ("libraries", "beyond_libraries")):
        yield f"PCA and KMeans, {args.beyond_rows:,} x {args.beyond_columns:,}: {who}", contender, []


# -- tables ------------------------------------------------------------------------------------------


def _write(folder: Path, rows: int, clouds: np.ndarray, alone: float, width: float) -> None:
    """``image_id, vector`` of rows around the float32[k, d] ``clouds`` by turns, a share of them ``alone``; once."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from motorpool.spark.blocks import to_list_array

    if (folder / "_whole").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for chunk, first in enumerate(range(0, rows, _CHUNK)):
        rng = np.random.default_rng([7, chunk])
        ids = np.arange(first, min(first + _CHUNK, rows))
        x = rng.standard_normal((len(ids), clouds.shape[1]), np.float32)
        far = rng.random(len(ids)) < alone
        x[~far] = x[~far] * np.float32(width) + clouds[ids[~far] % len(clouds)]
        table = pa.table({"image_id": ids, "vector": to_list_array(x)})
        # Random numbers do not compress.
        pq.write_table(table, folder / f"part-{chunk:04d}.parquet", compression="none", use_dictionary=False)
    (folder / "_whole").touch()


def _read(folder: Path, columns: int, rows: int) -> np.ndarray:
    """float32[rows, columns] of the first rows."""
    import pyarrow.parquet as pq

    x = np.empty((rows, columns), np.float32)
    for first in range(0, rows, _CHUNK):
        column = pq.read_table(folder / f"part-{first // _CHUNK:04d}.parquet", columns=["vector"])["vector"]
        found = column.combine_chunks().flatten().to_numpy().reshape(-1, columns)
        x[first : first + _CHUNK] = found[: rows - first]
    return x


def prepare_many(args: argparse.Namespace) -> dict[str, Any]:
    clouds = np.random.default_rng(7).standard_normal((max(1, args.many_rows // CLOUD_ROWS), COLUMNS), np.float32)
    _write(MANY, args.many_rows, clouds, ALONE, 0.1)
    return {}


def prepare_beyond(args: argparse.Namespace) -> dict[str, Any]:
    clouds = np.random.default_rng(8).standard_normal((CLOUDS, args.beyond_columns), np.float32)
    _write(BEYOND, args.beyond_rows, clouds, 0.0, 0.5)
    return {}


def _backend(args: argparse.Namespace) -> Any:
    """The GPU, or its kernels over NumPy."""
    from motorpool.backend.protocol import GPU, ArrayBackend

    return GPU if args.accelerator == "gpu" else ArrayBackend("numpy")


# -- DBSCAN of many rows -----------------------------------------------------------------------------


def many(args: argparse.Namespace) -> dict[str, Any]:
    """Motorpool's DBSCAN."""
    from pyspark.sql import functions as F

    from motorpool.cluster.density.dbscan import DbscanParameters, fit_dbscan
    from motorpool.kernels.pairs.sweep import Wanted
    from motorpool.neighbours.search import search
    from motorpool.neighbours.shards import arrange
    from motorpool.spark import blocks
    from motorpool.spark.session import build_session

    prepare_many(args)
    backend = _backend(args)
    with step("session"):
        spark = build_session({"spark.driver.memory": args.heap}, delta=False)
    grid = DbscanParameters((EPS,), (MIN_SAMPLES,))
    with step("dbscan"):
        arranged = arrange(blocks.gather(stored_vectors(spark, MANY, images=args.rows)), "euclidean", 0)
        counted = search(arranged, Wanted(grid.eps, MIN_SAMPLES), backend=backend)
        labelled = fit_dbscan(arranged, counted, grid.eps, grid, backend=backend)
    noise = labelled.wide().select(F.count_if(F.col("clusters")[0] < 0)).first()
    assert noise is not None
    spark.stop()
    return {"clusters": labelled.sizes[0], "noise": noise[0]}


def many_alone(args: argparse.Namespace) -> dict[str, Any]:
    """The library's DBSCAN of an array in this machine's memory; scikit-learn's in the dry run."""
    prepare_many(args)
    x = _read(MANY, COLUMNS, args.rows)
    with step("dbscan"):
        if args.accelerator == "gpu":
            from cuml.cluster import DBSCAN

            found = DBSCAN(eps=EPS, min_samples=MIN_SAMPLES, max_mbytes_per_batch=4096).fit(x).labels_
        else:
            from sklearn.cluster import DBSCAN

            found = DBSCAN(eps=EPS, min_samples=MIN_SAMPLES, algorithm="brute").fit(x).labels_
    labels = np.asarray(found)
    return {"clusters": int(labels.max()) + 1, "noise": int((labels < 0).sum())}


# -- a table larger than the GPU's memory ------------------------------------------------------------


@contextmanager
def _left(args: argparse.Namespace) -> Iterator[None]:
    """Take all of the GPU's memory but ``--gpu-left`` GiB; nothing without a GPU."""
    if args.accelerator != "gpu":
        yield
        return
    import cupy

    free, _ = cupy.cuda.runtime.memGetInfo()
    taken = cupy.zeros(max(0, int(free - args.gpu_left * 2**30)), "int8")
    try:
        yield
    finally:
        del taken


def beyond(args: argparse.Namespace) -> dict[str, Any]:
    """Motorpool's PCA and KMeans."""
    return _beyond(args, None)


def beyond_libraries(args: argparse.Namespace) -> dict[str, Any]:
    """PCA and KMeans of spark-rapids-ml, or of MLlib in the dry run, through Motorpool's adapters."""
    return _beyond(args, "spark-rapids-ml" if args.accelerator == "gpu" else "spark-ml")


def _beyond(args: argparse.Namespace, engine: Any) -> dict[str, Any]:
    """Both by a library's engine, or by Motorpool's own where that is None."""
    from motorpool.cluster.centroids.kmeans import fit_kmeans, fit_kmeans_by
    from motorpool.features.fit import Fitter
    from motorpool.features.spec import FeatureSet, Part, Step
    from motorpool.spark import blocks
    from motorpool.spark.estimators import estimators
    from motorpool.spark.session import build_session

    prepare_beyond(args)
    backend = _backend(args)
    with step("session"):
        spark = build_session({"spark.driver.memory": args.heap}, delta=False)
    named = {} if engine is None else {"engine": engine}
    spec = FeatureSet("f", (Part("raw"),), (Step("pca", KEPT),), **named)
    wide, widths = stored_vectors(spark, BEYOND, "raw"), {"raw": args.beyond_columns}
    block_df = blocks.gather(stored_vectors(spark, BEYOND))
    with _left(args):
        with step("kmeans"):
            models = (
                fit_kmeans(block_df, KS, seed=0, backend=backend)
                if engine is None
                else fit_kmeans_by(estimators(engine), block_df, KS, seed=0, backend=backend)
            )
        with step("pca"), Fitter(wide, [spec], 0, backend=backend, widths=widths) as fitter:
            (fitted,) = fitter.fit()
    spark.stop()
    return {
        "explained": fitted.spectrum.explained if fitted.spectrum else None,
        "inertia": [m.inertia for m in models],
    }


CONTENDERS = {
    "many": many, "many_alone": many_alone, "beyond": beyond, "beyond_libraries": beyond_libraries,
}  # fmt: skip
#: Tables, and the contenders that read them: what nobody reads any more is removed, for disks are small.
TABLES = {MANY: ("many", "many_alone"), BEYOND: ("beyond", "beyond_libraries")}
