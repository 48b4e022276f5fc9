"""Cases in tables: vectors beside paths in Parquet, Delta and catalogs, joined by key, equal to NumPy's bit by bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.ml.functions import array_to_vector
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from cases import blobs, contents, run_of, write_attributes, write_paths
from motorpool.case import parquet_tables, vector_columns
from motorpool.errors import CaseError, ConfigError, LakeError
from motorpool.lake import Lake
from motorpool.pipeline.context import Context, explained
from motorpool.pipeline.stages.ingest import run_ingest

ROWS = 30
WIDTH = 5
X = blobs(ROWS, WIDTH)
#: Not in the order of their names, and with the separators of Windows.
PATHS = [f"cars\\{(7 * i) % ROWS:02d}.jpg" for i in range(ROWS)]
PLAIN = [p.replace("\\", "/") for p in PATHS]


def lists(x: np.ndarray, kind: str = "list") -> pa.Array:
    values = pa.array(x.reshape(-1))
    if kind == "fixed":
        return pa.FixedSizeListArray.from_arrays(values, x.shape[1])
    offsets = np.arange(len(x) + 1) * x.shape[1]
    if kind == "large":
        return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), values)
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values)


def tensors(x: np.ndarray) -> pa.Array:
    return pa.FixedShapeTensorArray.from_numpy_ndarray(x)


def spark_ml(x: np.ndarray) -> pa.Array:
    """As Spark writes its vectors; every third one is sparse."""
    rows: list[dict[str, Any]] = []
    for i, row in enumerate(x.astype(np.float64)):
        if i % 3:
            rows.append({"type": 1, "size": None, "indices": None, "values": row.tolist()})
        else:
            rows.append({"type": 0, "size": x.shape[1], "indices": [1, 3], "values": row[[1, 3]].tolist()})
    kind = [("type", pa.int8()), ("size", pa.int32()), ("indices", pa.list_(pa.int32()))]
    return pa.array(rows, pa.struct([*kind, ("values", pa.list_(pa.float64()))]))


def sparse(x: np.ndarray) -> np.ndarray:
    """What `spark_ml` keeps."""
    kept = x.copy()
    kept[::3, [0, 2, 4]] = 0
    return kept


def table(**columns: Any) -> pa.Table:
    """Paths, a colour with gaps, a number, and vectors."""
    colors = [None if i % 5 == 0 else "red" if i % 2 else "" for i in range(ROWS)]
    return pa.table({"image": PATHS, "emb": lists(X), "color": colors, "shot": list(range(ROWS)), **columns})


def column(file: Path, name: str, **more: str) -> dict[str, str]:
    return {"file": str(file), "column": name, **more}


def ingested(spark: SparkSession, lake: Path, **case: Any) -> Context:
    ctx = run_of(spark, None, lake, "parquet", case_options={"vehicle_pattern": None} | case)
    run_ingest(ctx)
    return ctx


def by_path(lake: Lake, descriptor: str = "clip") -> dict[str, np.ndarray]:
    """The vector of every image."""
    rows = lake.read("descriptors", descriptor=descriptor).join(lake.read("images"), "image_id").collect()
    return {r["path"]: np.array(r["vector"], np.float32) for r in rows}


def check(lake: Lake, x: np.ndarray, descriptor: str = "clip", paths: list[str] = PLAIN) -> None:
    found = by_path(lake, descriptor)
    assert sorted(found) == sorted(paths)
    with np.errstate(over="ignore"):
        expected = x.astype(np.float32)
    for i, path in enumerate(paths):
        assert found[path].tobytes() == expected[i].tobytes(), path


FORMS: dict[str, tuple[Callable[[np.ndarray], pa.Array], str]] = {
    "float32": (lists, "float32"),
    "float64": (lambda x: lists(x.astype(np.float64)), "float64"),
    "float16": (lambda x: lists(x.astype(np.float16)), "float16"),
    "large": (lambda x: lists(x, "large"), "float32"),
    "fixed": (lambda x: lists(x, "fixed"), "float32"),
    "fixed float16": (lambda x: lists(x.astype(np.float16), "fixed"), "float16"),
    "tensors": (tensors, "float32"),
    "spark ml": (spark_ml, "float64"),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_parquet_file_is_a_case(spark: SparkSession, tmp_path: Path, form: str) -> None:
    """Its rows are the images, in its order; what else it holds goes to `images`, as text."""
    make, dtype = FORMS[form]
    file = tmp_path / "emb.parquet"
    pq.write_table(table(emb=make(X), photo=pa.array([b"\xff"] * ROWS)), file, row_group_size=7)
    ctx = ingested(
        spark, tmp_path / "lake", images_paths=column(file, "image"), descriptors={"clip": column(file, "emb")}
    )
    expected = X.astype(np.float16) if "float16" in form else sparse(X) if form == "spark ml" else X
    check(ctx.lake, expected)
    images = ctx.lake.read("images").orderBy("image_id").collect()
    assert ctx.lake.read("images").columns == ["image_id", "path", "vehicle_id", "color", "shot"]
    assert [r["path"] for r in images] == PLAIN
    assert [r["color"] for r in images] == ["red" if i % 5 and i % 2 else None for i in range(ROWS)]
    assert [r["shot"] for r in images] == [str(i) for i in range(ROWS)]
    (source,) = ctx.lake.rows("sources")
    assert (source["n_rows"], source["n_columns"], source["dtype"]) == (ROWS, WIDTH, dtype)
    assert source["file"] == f"{file}: emb"


def test_a_folder_of_part_files(spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of their numbers, with the values that folders give; several tasks and batches; hidden files."""
    whole = table(second=lists(X[:, :2]))
    for i, (split, start) in enumerate((("train", 0), ("train", 10), ("te%20st", 20))):
        folder = tmp_path / "emb" / f"split={split}"
        folder.mkdir(parents=True, exist_ok=True)
        # Ten files: their numbers sort otherwise than their names.
        for j, at in enumerate(range(start, start + 10, 2)):
            pq.write_table(whole.slice(at, 2), folder / f"part-{5 * i + j}.parquet", row_group_size=1)
    (tmp_path / "emb" / "_SUCCESS").write_text("")
    (tmp_path / "emb" / "_hidden.parquet").write_text("nothing")
    monkeypatch.setattr(parquet_tables, "_VECTOR_BYTES", 4 * WIDTH)
    monkeypatch.setattr(parquet_tables, "_VECTOR_BATCH", 4 * WIDTH)
    monkeypatch.setattr(parquet_tables, "_TEXT_ROWS", 1)
    ctx = ingested(
        spark,
        tmp_path / "lake",
        images_paths=column(tmp_path / "emb", "image"),
        descriptors={"clip": column(tmp_path / "emb", "emb"), "two": column(tmp_path / "emb", "second")},
        vehicle_column="shot",
    )
    check(ctx.lake, X)
    check(ctx.lake, X[:, :2], "two")
    images = {r["path"]: r for r in ctx.lake.read("images").collect()}
    assert [images[p]["split"] for p in PLAIN] == ["train"] * 20 + ["te st"] * 10
    assert [images[p]["vehicle_id"] for p in PLAIN] == [str(i) for i in range(ROWS)]
    # Folders come in the order of their names.
    ids = sorted(PLAIN, key=lambda p: images[p]["image_id"])
    assert ids == PLAIN[20:] + PLAIN[:20]


def test_rows_in_another_order_are_joined_by_path(spark: SparkSession, tmp_path: Path) -> None:
    """A CSV of paths, a Parquet file that has more rows, and an array by position."""
    order = np.random.default_rng(2).permutation(ROWS)
    names = [PLAIN[i] for i in order] + ["other/1.jpg"]
    vectors = pa.concat_arrays([lists(X[order]), pa.array([[9.0] * WIDTH], pa.list_(pa.float32()))])
    pq.write_table(pa.table({"path": [f"./{n}" for n in names], "emb": vectors}), tmp_path / "emb.parquet")
    write_paths(tmp_path / "list.csv", PATHS)
    write_attributes(tmp_path / "attributes.csv", [{"path": p, "n": i} for i, p in enumerate(PATHS)])
    np.save(tmp_path / "a.npy", X * 2)
    ctx = ingested(
        spark,
        tmp_path / "lake",
        images_paths=str(tmp_path / "list.csv"),
        attributes=str(tmp_path / "attributes.csv"),
        descriptors={"clip": column(tmp_path / "emb.parquet", "emb"), "by_row": str(tmp_path / "a.npy")},
    )
    check(ctx.lake, X)
    check(ctx.lake, X * 2, "by_row")
    assert [r["path"] for r in ctx.lake.read("images").orderBy("image_id").collect()] == PLAIN


def test_rows_are_joined_by_an_id_of_both_tables(spark: SparkSession, tmp_path: Path) -> None:
    ids = [10_000_000_000 + 3 * i for i in range(ROWS)]
    pq.write_table(table(id=pa.array(ids)), tmp_path / "images.parquet")
    reverse = np.arange(ROWS)[::-1]
    # The ids of one table may be numbers, and text in the other.
    vectors = pa.table({"id": [str(ids[i]) for i in reverse], "v": lists(X[reverse])})
    pq.write_table(vectors, tmp_path / "vectors.parquet")
    ctx = ingested(
        spark,
        tmp_path / "lake",
        images_paths=column(tmp_path / "images.parquet", "image"),
        descriptors={"clip": column(tmp_path / "vectors.parquet", "v", key="id")},
    )
    check(ctx.lake, X)
    assert {r["id"] for r in ctx.lake.read("images").collect()} == set(map(str, ids))


@pytest.mark.parametrize("form", ["delta", "catalog"])
def test_tables_of_spark(spark: SparkSession, tmp_path: Path, form: str) -> None:
    """A Delta folder and a table of a catalog: images in the order of their paths; lists and Spark ML's vectors."""
    rows = [
        (p, x.tolist(), x.astype(np.float64).tolist(), i, i % 2 == 0)
        for i, (p, x) in enumerate(zip(PATHS, X, strict=True))
    ]
    df = spark.createDataFrame(rows, "image STRING, emb ARRAY<FLOAT>, d ARRAY<DOUBLE>, n INT, even BOOLEAN")
    df = df.withColumn("ml", array_to_vector("d")).withColumn("a b", F.lit("left out")).repartition(3)
    if form == "delta":
        df.write.format("delta").option("delta.columnMapping.mode", "name").save(str(tmp_path / "t"))
        place: dict[str, str] = {"file": str(tmp_path / "t")}
    else:
        spark.sql("CREATE DATABASE IF NOT EXISTS vectors_of_tests")
        df.write.format("parquet").mode("overwrite").saveAsTable("vectors_of_tests.embeddings")
        place = {"table": "vectors_of_tests.embeddings"}
    try:
        case = {
            "images_paths": place | {"column": "image"},
            "descriptors": {name: place | {"column": name} for name in ("emb", "d", "ml")},
        }
        ctx = ingested(spark, tmp_path / "lake", **case)
        for name in ("emb", "d", "ml"):
            check(ctx.lake, X, name)
        images = ctx.lake.read("images").orderBy("image_id").collect()
        assert [r["path"] for r in images] == sorted(PLAIN)
        assert ctx.lake.read("images").columns == ["image_id", "path", "vehicle_id", "n", "even"]
        assert {r["path"]: (r["n"], r["even"]) for r in images} == {
            p: (str(i), str(i % 2 == 0).lower()) for i, p in enumerate(PLAIN)
        }
        before = contents(ctx.lake)
        run_ingest(run_of(spark, None, tmp_path / "lake", "parquet", case_options={"vehicle_pattern": None} | case))
        assert contents(ctx.lake) == before
        np.save(tmp_path / "a.npy", X)
        case["descriptors"] = {"x": str(tmp_path / "a.npy")}
        with pytest.raises(CaseError, match=r"case.descriptors.x: .*a.npy is an array, .* have no order"):
            ingested(spark, tmp_path / "other", **case)
    finally:
        spark.sql("DROP TABLE IF EXISTS vectors_of_tests.embeddings")


def test_bad_rows_are_refused_or_left_out(spark: SparkSession, tmp_path: Path) -> None:
    x = X.copy()
    x[3, 1], x[8, 0] = np.nan, np.inf
    order = np.arange(ROWS)[::-1]
    pq.write_table(table(emb=lists(x)), tmp_path / "same.parquet")
    pq.write_table(pa.table({"image": [PATHS[i] for i in order], "v": lists(x[order])}), tmp_path / "other.parquet")
    for name, v in (("same", "emb"), ("other", "v")):
        case = {
            "images_paths": column(tmp_path / "same.parquet", "image"),
            "descriptors": {"clip": column(tmp_path / f"{name}.parquet", v)},
        }
        with pytest.raises(CaseError, match=r"NaN or infinity .*: 2 rows, first 3, 8\. .*on_bad_rows"):
            ingested(spark, tmp_path / name, **case)
        ctx = ingested(spark, tmp_path / name, on_bad_rows="drop", **case)
        kept = [i for i in range(ROWS) if i not in (3, 8)]
        check(ctx.lake, x[kept], paths=[PLAIN[i] for i in kept])
        assert {r["path"] for r in ctx.lake.read("bad_rows").collect()} == {PLAIN[3], PLAIN[8]}


def test_a_second_run(spark: SparkSession, tmp_path: Path) -> None:
    """The same tables are left alone, another descriptor is added, other images are another case."""
    file = tmp_path / "emb.parquet"
    pq.write_table(table(other=lists(X[:, 1:])), file)
    case: dict[str, Any] = {
        "images_paths": column(file, "image"), "descriptors": {"clip": column(file, "emb")},
    }  # fmt: skip
    before = contents(ingested(spark, tmp_path / "lake", **case).lake)
    ctx = ingested(spark, tmp_path / "lake", **case)
    assert contents(ctx.lake) == before
    case["descriptors"]["second"] = column(file, "other")
    check(ingested(spark, tmp_path / "lake", **case).lake, X[:, 1:], "second")
    case["descriptors"]["second"] = column(file, "emb")
    with pytest.raises(LakeError, match=r"holds second as 30 x 4, but .*emb.parquet: emb is 30 x 5"):
        ingested(spark, tmp_path / "lake", **case)
    pq.write_table(table(image=[f"x/{i}" for i in range(ROWS)]), file)
    with pytest.raises(LakeError, match="holds another case"):
        ingested(spark, tmp_path / "lake", images_paths=case["images_paths"], descriptors={"clip": column(file, "emb")})


def ragged(row: int, value: list[float] | None) -> pa.Array:
    rows = X.tolist()
    rows[row] = value
    return pa.array(rows, pa.list_(pa.float32()))


def keyed(names: list[str]) -> pa.Table:
    return pa.table({"image": names, "emb": lists(np.resize(X, (len(names), WIDTH)))})


#: What is wrong, the table of the vectors, the table of the images (None: the same), and what the message says.
REFUSED: list[tuple[str, pa.Table, pa.Table | None, str]] = [
    ("a null", table(emb=ragged(11, None)), None, "row 11 holds no vector .null., expected 5 numbers"),
    ("a short list", table(emb=ragged(0, [1.0])), None, "row 1 holds a list of 5 numbers, expected 1"),
    ("a long list", table(emb=ragged(4, [0.0] * 9)), None, "row 4 holds a list of 9 numbers"),
    ("a null number", table(emb=ragged(7, [0.0, None, 1.0, 2.0, 3.0])), None, "row 7 holds a null among"),
    ("a short list, by key", table(emb=ragged(5, [1.0, 2.0])), table(), r"the row with image 'cars\\\\05.jpg' holds a"),
    ("numbers", table(emb=list(range(ROWS))), None, "column 'emb' holds int64, expected lists of float16"),
    ("whole numbers", table(emb=lists(X.astype(np.int32))), None, "expected lists of float16, float32 or float64"),
    ("no lists", table(emb=pa.nulls(ROWS, pa.list_(pa.float32()))), None, "holds no vectors: the column is empty"),
    ("a missing key", keyed(PATHS[1:]), table(), r"1 of 30 images have no row in it, by its column 'image' .*cars/00"),
    ("missing keys", keyed(["x"] * ROWS), table(), r"30 of 30 images have no row .*cars/00.jpg, cars/07.jpg, cars/14"),
    ("a doubled key", keyed([*PATHS, PATHS[3]]), table(), r"1 of 30 images have more than one row in it.*cars/21.jpg"),
    ("no key", pa.table({"emb": lists(X)}), table(), "has no column 'image' or 'paths' or 'path' that says"),
    ("paths twice", table(image=[*PATHS[:-1], PATHS[0]]), None, r"paths must be unique.*cars/00.jpg \(2 times"),
    ("no path", table(image=[*PATHS[:-1], None]), None, "1 paths are empty, the first in row 29"),
    ("no such column", table().drop_columns(["emb"]), None, "has no column 'emb'; it has image, color, shot"),
    ("no such paths", table().drop_columns(["image"]), None, "has no such column of texts or numbers; it has color"),
    ("no rows", table().slice(0, 0), None, "holds no vectors|holds no paths"),
]  # fmt: skip


@pytest.mark.parametrize(("vectors", "images", "message"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
def test_what_is_refused(
    spark: SparkSession, tmp_path: Path, vectors: pa.Table, images: pa.Table | None, message: str
) -> None:
    """By the name of the file, the column, and the row or key; nothing is written."""
    pq.write_table(vectors, tmp_path / "emb.parquet", row_group_size=8)
    if images is not None:
        pq.write_table(images, tmp_path / "images.parquet")
    paths = column(tmp_path / ("emb.parquet" if images is None else "images.parquet"), "image")
    with pytest.raises(CaseError, match=message) as caught:
        ingested(
            spark, tmp_path / "lake", images_paths=paths, descriptors={"c": column(tmp_path / "emb.parquet", "emb")}
        )
    assert "parquet" in str(caught.value)
    assert not (tmp_path / "lake" / "sources").exists()


# -- hostile files -----------------------------------------------------------------------------------


def open_vectors(file: Path, name: str = "emb") -> None:
    parquet_tables.open_parquet_table(str(file)).vector_type(name)


def lying_footer(file: Path) -> None:
    pq.write_table(table(), file)
    data = bytearray(file.read_bytes())
    data[-8:-4] = (2**31 - 1).to_bytes(4, "little")
    file.write_bytes(data)


def large_footer(file: Path) -> None:
    """65 MiB of what is said to be a footer, in a file with a hole."""
    with file.open("wb") as f:
        f.truncate(66 << 20)
        f.seek(0, 2)
        f.write((65 << 20).to_bytes(4, "little") + b"PAR1")


def cut_off(file: Path) -> None:
    pq.write_table(table(), file)
    file.write_bytes(file.read_bytes()[:-30])


def damaged(file: Path) -> None:
    pq.write_table(table(), file)
    data = bytearray(file.read_bytes())
    data[-60:-20] = b"\xff" * 40
    file.write_bytes(data)


def many_columns(file: Path) -> None:
    pq.write_table(pa.table({f"c{i}": pa.array([], pa.int8()) for i in range(100_001)}), file)


def endless_list(file: Path) -> None:
    pq.write_table(pa.table({"emb": pa.array([np.zeros(100_001, np.float32)])}), file)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lying_footer, "says that its footer takes 2,147,483,647 of its"),
        (large_footer, "says that its footer takes 68,157,440 of its"),
        (cut_off, "is no Parquet file, or is cut off"),
        (damaged, "cannot be read as Parquet"),
        (many_columns, "has 100,001 columns, where 100,000 are allowed"),
        (endless_list, "emb.list.element holds 100,001 values in 1 rows"),
        (lambda file: file.write_bytes(b""), "is no Parquet file, or is cut off"),
        (lambda file: file.mkdir(), "the folder holds no Parquet file"),
        (lambda file: None, "no such file"),
    ],
)
def test_files_that_lie(tmp_path: Path, make: Callable[[Path], None], message: str) -> None:
    make(tmp_path / "x.parquet")
    with pytest.raises(CaseError, match=message) as caught:
        open_vectors(tmp_path / "x.parquet")
    assert "x.parquet" in str(caught.value)


def test_part_files_of_different_columns(tmp_path: Path) -> None:
    pq.write_table(table(), tmp_path / "1.parquet")
    pq.write_table(table(emb=lists(X.astype(np.float64))), tmp_path / "2.parquet")
    with pytest.raises(CaseError, match=r"column 'emb' of .*1.parquet is of another type.* in .*2.parquet"):
        open_vectors(tmp_path)


def test_a_table_is_named_by_its_column(spark: SparkSession, tmp_path: Path) -> None:
    pq.write_table(table(), tmp_path / "emb.parquet")
    np.save(tmp_path / "a.npy", X)
    for path in (tmp_path / "emb.parquet", tmp_path):
        with pytest.raises(CaseError, match=r"of which one column is needed: name it as \{file: .*, column: path\}"):
            ingested(spark, tmp_path / "lake", images_paths=str(path), descriptors={"a": str(tmp_path / "a.npy")})


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ({"file": "a", "table": "b", "column": "c"}, "case.descriptors.x: give either `file`"),
        ({"column": "c"}, "case.descriptors.x: give either `file`"),
        ({"file": "a"}, "case.descriptors.x.column"),
        ({"table": "a;DROP TABLE b", "column": "c"}, "case.descriptors.x.table: 'a;DROP TABLE b': expected a table"),
        ({"table": "a.b.c.d", "column": "c"}, "case.descriptors.x.table"),
        ({"file": "a", "column": "c", "kez": "d"}, "case.descriptors.x.kez: unknown key"),
    ],
)
def test_columns_in_a_config(spark: SparkSession, tmp_path: Path, case: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run_of(spark, None, tmp_path, case_options={"images_paths": "a.csv", "descriptors": {"x": case}})
    assert message in str(caught.value)


def test_a_table_that_is_not_there(spark: SparkSession, tmp_path: Path) -> None:
    place = {"table": "no_such_table", "column": "x"}
    with (
        pytest.raises(CaseError, match=r"^no_such_table: Spark cannot open this table: .*TABLE_OR_VIEW_NOT_FOUND"),
        explained(),
    ):
        ingested(spark, tmp_path / "lake", images_paths=place, descriptors={"a": place})


def test_finite_rows() -> None:
    x = np.array([[1e38, 1e38, 3e38], [np.nan, 0, 0], [0, np.inf, -np.inf], [1, 2, 3]], np.float32)
    assert vector_columns.finite_rows(x).tolist() == [True, False, False, True]
