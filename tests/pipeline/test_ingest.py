"""Ingest: a case becomes tables, or is refused and leaves every table as it was."""

from __future__ import annotations

import contextlib
import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from cases import blobs, contents, image_paths, leftovers, run_of, versions, write_attributes, write_case, write_paths
from motorpool.case import descriptors
from motorpool.config.run import LakeConfig
from motorpool.errors import CaseError, ConfigError, LakeError, MotorpoolError
from motorpool.lake import Lake
from motorpool.pipeline.stages.ingest import run_ingest

ROWS = 30
SMALL = {"osnet": blobs(ROWS, 4), "vdc_type": blobs(ROWS, 3)}


def small_case(folder: Path, **arrays: np.ndarray) -> Path:
    return write_case(folder, ROWS, arrays or SMALL)


def vectors(lake: Lake, name: str) -> tuple[list[int], np.ndarray]:
    found = lake.read("descriptors", descriptor=name).orderBy("image_id").collect()
    return [r["image_id"] for r in found], np.array([r["vector"] for r in found], np.float32)


def save_npz(file: Path, array: np.ndarray) -> None:
    np.savez_compressed(file, array)


def save_parquet(file: Path, array: np.ndarray) -> None:
    pq.write_table(pa.table({"vector": pa.array(list(array))}), file)


class TestTables:
    def test_as_designed(self, spark: SparkSession, tmp_path: Path) -> None:
        """One descriptor in every format, CRLF and backslashes, attributes in another order, several splits."""
        case = small_case(tmp_path / "case")
        array = blobs(ROWS, 5)
        np.save(case / "descriptors" / "as-npy.npy", np.asfortranarray(array.astype(np.float64)))
        save_npz(case / "descriptors" / "as-npz.npz", array)
        save_parquet(case / "descriptors" / "as-parquet.parquet", array)
        (case / "descriptors" / "notes.txt").write_text("not a descriptor")
        write_paths(case / "images_paths.csv", image_paths(ROWS), newline="\r\n")
        rows = [
            {"paths": f"./{p}", "color": "red" if i % 2 else "", "image_no": i} for i, p in enumerate(image_paths(ROWS))
        ]
        write_attributes(case / "attributes.csv", rows[:0:-1])
        ctx = run_of(spark, case, tmp_path / "lake")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(descriptors, "_SPLIT_BYTES", 13 * 4 * 5)
            patch.setattr(descriptors, "_CHUNK_BYTES", 3 * 4 * 5)
            run_ingest(ctx)
        for name, expected in {**SMALL, "as-npy": array, "as-npz": array, "as-parquet": array}.items():
            ids, found = vectors(ctx.lake, name)
            assert ids == list(range(ROWS))
            np.testing.assert_array_equal(found, expected)
        images = ctx.lake.read("images").orderBy("image_id").collect()
        assert ctx.lake.read("images").columns == ["image_id", "path", "vehicle_id", "color", "image_no"]
        assert [r["path"] for r in images] == [p.replace("\\", "/") for p in image_paths(ROWS)]
        assert [r["vehicle_id"] for r in images] == [f"{i // 3 + 1:05d}" for i in range(ROWS)]
        assert [r["color"] for r in images] == ["red" if i % 2 else None for i in range(ROWS)]
        assert [r["image_no"] for r in images] == [None, *map(str, range(1, ROWS))]
        assert ctx.lake.read("bad_rows").count() == 0
        sources = {r["descriptor"]: r for r in ctx.lake.read("sources").collect()}
        assert {n: (r["n_rows"], r["n_columns"], r["dtype"], r["n_dropped"]) for n, r in sources.items()} == {
            "as-npy": (ROWS, 5, "float64", 0),
            "as-npz": (ROWS, 5, "float32", 0),
            "as-parquet": (ROWS, 5, "float32", 0),
            "osnet": (ROWS, 4, "float32", 0),
            "vdc_type": (ROWS, 3, "float32", 0),
        }
        before, at = contents(ctx.lake), versions(ctx.lake)
        run_ingest(ctx)
        assert (contents(ctx.lake), versions(ctx.lake)) == (before, at)

    def test_files_named_one_by_one_and_a_descriptor_added_later(self, spark: SparkSession, tmp_path: Path) -> None:
        np.save(tmp_path / "a.npy", SMALL["osnet"])
        np.save(tmp_path / "b.npy", SMALL["vdc_type"])
        write_paths(tmp_path / "list.csv", [f"photos/{i}.jpg" for i in range(ROWS)])
        options = {"images_paths": str(tmp_path / "list.csv"), "descriptors": {"first": str(tmp_path / "a.npy")}}
        options |= {"vehicle_pattern": r"(?P<car>\d)\.jpg$"}
        ctx = run_of(spark, None, tmp_path / "lake", "parquet", case_options=options)
        run_ingest(ctx)
        before = contents(ctx.lake)
        ids = {r["path"]: r["vehicle_id"] for r in ctx.lake.read("images").collect()}
        assert (ids["photos/7.jpg"], ids["photos/27.jpg"]) == ("7", "7")
        options["descriptors"] |= {"second": str(tmp_path / "b.npy")}  # type: ignore[operator]
        run_ingest(run_of(spark, None, tmp_path / "lake", "parquet", case_options=options))
        assert vectors(ctx.lake, "second")[0] == list(range(ROWS))
        after = contents(ctx.lake)
        assert after["images"] == before["images"]
        assert set(before["descriptors"]) < set(after["descriptors"])
        assert set(before["sources"]) < set(after["sources"])

    def test_vehicles_from_the_attributes(self, spark: SparkSession, tmp_path: Path) -> None:
        case = small_case(tmp_path / "case")
        write_attributes(
            case / "attributes.csv",
            [{"path": p, "vehicle_id": f"v{i % 4}", "a.b": i} for i, p in enumerate(image_paths(ROWS))],
        )
        ctx = run_of(spark, case, tmp_path / "lake", "parquet", case_options={"vehicle_pattern": None})
        run_ingest(ctx)
        images = ctx.lake.read("images").orderBy("image_id")
        assert images.columns == ["image_id", "path", "vehicle_id", "a.b"]
        assert [r["vehicle_id"] for r in images.collect()] == [f"v{i % 4}" for i in range(ROWS)]

    def test_paths_that_hold_no_vehicle_are_told(
        self, spark: SparkSession, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        case = small_case(tmp_path / "case")
        write_paths(case / "images_paths.csv", [*image_paths(ROWS - 1), "x.jpg"])
        ctx = run_of(spark, case, tmp_path / "lake", "parquet")
        logging.getLogger("motorpool").propagate = True
        with caplog.at_level(logging.WARNING, "motorpool"):
            run_ingest(ctx)
        assert "finds no vehicle in 1 of 30 paths" in caplog.text
        assert ctx.lake.read("images").where("vehicle_id IS NULL").count() == 1


class TestBadRows:
    def spoil(self, tmp_path: Path) -> Path:
        """Rows 3 and 20 of one descriptor and row 20 of the other are not finite."""
        arrays = {n: a.astype(np.float64) for n, a in SMALL.items()}
        arrays["osnet"][3, 1], arrays["osnet"][20, 0], arrays["vdc_type"][20, 2] = np.nan, np.inf, 1e300
        return small_case(tmp_path / "case", **arrays)

    @pytest.mark.parametrize("kind", ["delta", "parquet", "catalog"])
    def test_refused_with_count_and_rows(self, spark: SparkSession, tmp_path: Path, kind: str) -> None:
        ctx = run_of(spark, self.spoil(tmp_path), tmp_path / "lake", "parquet" if kind == "parquet" else "delta")
        if kind == "catalog":
            ctx.lake = Lake(spark, LakeConfig(schema="refused"))
        with pytest.raises(CaseError) as caught:
            run_ingest(ctx)
        assert "osnet.pickle: 2 rows, first 3, 20" in str(caught.value)
        assert "vdc_type.pickle: 1 rows, first 20" in str(caught.value)
        assert "case.on_bad_rows" in str(caught.value)
        assert contents(ctx.lake) == {}

    def test_dropped(self, spark: SparkSession, tmp_path: Path) -> None:
        case = self.spoil(tmp_path)
        ctx = run_of(spark, case, tmp_path / "lake", "parquet", case_options={"on_bad_rows": "drop"})
        run_ingest(ctx)
        kept = [i for i in range(ROWS) if i not in (3, 20)]
        assert [r["image_id"] for r in ctx.lake.read("images").orderBy("image_id").collect()] == kept
        for name in SMALL:
            ids, found = vectors(ctx.lake, name)
            assert ids == kept
            np.testing.assert_array_equal(found, SMALL[name][kept])
        listed = ctx.lake.read("bad_rows").orderBy("image_id").collect()
        paths = [p.replace("\\", "/") for p in image_paths(ROWS)]
        assert [tuple(r) for r in listed] == [
            (3, paths[3], ["osnet"], "NaN or infinity"),
            (20, paths[20], ["osnet", "vdc_type"], "NaN or infinity"),
        ]
        assert {r["n_dropped"] for r in ctx.lake.read("sources").collect()} == {2}
        # A descriptor that comes later loses the same rows, whether they are finite in it or not.
        later = blobs(ROWS, 2)
        later[3] = np.nan
        (case / "descriptors" / "later.pickle").write_bytes(pickle.dumps(later))
        run_ingest(ctx)
        assert vectors(ctx.lake, "later")[0] == kept
        # But no further ones, which the images and the other descriptors still have.
        later[5] = np.nan
        (case / "descriptors" / "again.pickle").write_bytes(pickle.dumps(later))
        before = contents(ctx.lake)
        with pytest.raises(LakeError, match=r"1 rows of again .* ingest all descriptors together"):
            run_ingest(ctx)
        assert contents(ctx.lake) == before

    def test_nothing_left(self, spark: SparkSession, tmp_path: Path) -> None:
        case = small_case(tmp_path / "case", osnet=np.full((ROWS, 2), np.nan))
        ctx = run_of(spark, case, tmp_path / "lake", "parquet", case_options={"on_bad_rows": "drop"})
        with pytest.raises(CaseError, match="every row holds NaN"):
            run_ingest(ctx)
        assert contents(ctx.lake) == {}

    @pytest.mark.parametrize("nothing_left", [False, True])
    def test_nothing_stays_persisted(self, spark: SparkSession, tmp_path: Path, nothing_left: bool) -> None:
        case = self.spoil(tmp_path)
        if nothing_left:
            (case / "descriptors" / "osnet.pickle").write_bytes(pickle.dumps(np.full((ROWS, 2), np.nan)))
        spark.catalog.clearCache()
        ctx = run_of(spark, case, tmp_path / "lake", "parquet", case_options={"on_bad_rows": "drop"})
        with pytest.raises(CaseError) if nothing_left else contextlib.nullcontext():
            run_ingest(ctx)
        assert spark._jsparkSession.sharedState().cacheManager().isEmpty()


def put(name: str, content: bytes) -> Callable[[Path], None]:
    def change(case: Path) -> None:
        (case / name).write_bytes(content)

    return change


def array(value: Any, protocol: int = 4) -> Callable[[Path], None]:
    return put("descriptors/osnet.pickle", pickle.dumps(value, protocol))


def truncate(case: Path) -> None:
    file = case / "descriptors" / "osnet.pickle"
    file.write_bytes(file.read_bytes()[:-20])


def paths(*lines: str, header: str = "paths") -> Callable[[Path], None]:
    return lambda case: write_paths(case / "images_paths.csv", lines, header)


def attributes(*lines: str) -> Callable[[Path], None]:
    return put("attributes.csv", "".join(f"{line}\n" for line in lines).encode())


PATHS = image_paths(ROWS)
FIRST = PATHS[0]
REFUSED: list[tuple[str, Callable[[Path], None], str]] = [
    ("fewer rows than paths", array(blobs(ROWS - 1, 4)), r"has 30 rows, but found .*osnet.pickle: 29 rows"),
    ("more paths", paths(*image_paths(ROWS + 2)), r"has 32 rows, but found .*osnet.pickle: 30 rows"),
    ("truncated", truncate, "osnet.pickle"),
    ("object array", array(np.array([{}] * ROWS, object)), "osnet.pickle"),
    ("integers", array(np.ones((ROWS, 3), int)), "osnet.pickle.*integers"),
    ("1-D", array(np.ones(ROWS, np.float32)), "osnet.pickle"),
    ("3-D", array(np.ones((ROWS, 2, 2), np.float32)), "osnet.pickle"),
    ("no columns", array(np.ones((ROWS, 0), np.float32)), "osnet.pickle"),
    ("a list", array([[1.0, 2.0]] * ROWS), "osnet.pickle"),
    (
        "unknown protocol",
        put("descriptors/osnet.pickle", b"\x80\x09" + pickle.dumps(SMALL["osnet"])[2:]),
        "osnet.pickle: unknown pickle protocol",
    ),
    ("no pickle", put("descriptors/osnet.pickle", b"hello"), "osnet.pickle"),
    ("an empty file", put("descriptors/osnet.pickle", b""), "osnet.pickle"),
    (
        "duplicate paths",
        paths(*PATHS[:-1], FIRST),
        r"more than once: veriwild/1/00001/000001.jpg \(2 times, first in row 0\)",
    ),
    ("an empty case", paths(), "holds no paths"),
    ("an empty paths file", put("images_paths.csv", b""), "images_paths.csv"),
    ("no column paths", paths(*(f"{p},1" for p in PATHS), header="bild,n"), "needs a column `paths`, found bild, n"),
    ("no text", put("images_paths.csv", b"paths\n\xff\xfe\n" * ROWS), "images_paths.csv"),
    ("blank paths", paths(*PATHS[:-1], '" "'), "1 paths are empty, the first in row 29"),
    ("attributes of other images", attributes("path,a", "x.jpg,1"), "none of its 1 paths"),
    (
        "an image twice",
        attributes("path,a", f"{FIRST},1", f"{FIRST.replace(chr(92), '/')},2"),
        "found several for veriwild/1",
    ),
    ("attributes without path", attributes("bild,a", "x,1"), "needs a column `path`, found bild, a"),
    ("a column with spaces", attributes("path,body type", f"{FIRST},1"), "column 'body type'"),
    ("a column with a backtick", attributes("path,a`b", f"{FIRST},1"), "column 'a`b'"),
    ("a column twice", attributes("path,a,A", f"{FIRST},1,2"), "column 'a' appears more than once"),
    ("a column image_id", attributes("path,Image_ID", f"{FIRST},1"), "'Image_ID' would hide"),
    ("ragged attributes", attributes("path,a", f"{FIRST},1,2,3"), "attributes.csv"),
    ("a descriptor's name", put("descriptors/a b.npy", b""), "'a b' cannot be a descriptor's name"),
    ("a name twice", put("descriptors/osnet.npy", b""), "two files are named osnet"),
]


@pytest.fixture(scope="module")
def ingested(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """A lake that already holds another descriptor of the same images."""
    folder = tmp_path_factory.mktemp("ingested")
    ctx = run_of(spark, small_case(folder / "case", other=blobs(ROWS, 2)), folder / "lake")
    run_ingest(ctx)
    return ctx.lake


class TestRefusals:
    @pytest.mark.parametrize(("spoil", "message"), [pytest.param(s, m, id=i) for i, s, m in REFUSED])
    def test_each_leaves_every_table_as_it_was(
        self, spark: SparkSession, tmp_path: Path, ingested: Lake, spoil: Callable[[Path], None], message: str
    ) -> None:
        case = small_case(tmp_path / "case")
        spoil(case)
        fresh = run_of(spark, case, tmp_path / "lake")
        with pytest.raises(CaseError, match=message) as caught:
            run_ingest(fresh)
        assert len(str(caught.value)) < 1000
        assert "Traceback" not in str(caught.value)
        assert not (tmp_path / "lake").exists()

    def test_nor_a_lake_that_holds_something(self, spark: SparkSession, tmp_path: Path, ingested: Lake) -> None:
        before, at = contents(ingested), versions(ingested)
        nan = blobs(ROWS, 2)
        nan[1] = np.nan
        spoiled: list[tuple[Callable[[Path], None], type[MotorpoolError]]] = [
            (array(blobs(ROWS - 1, 4)), CaseError),
            (array(nan), CaseError),
            (attributes("path,a", "x.jpg,1"), CaseError),
            (paths(*PATHS[:-1], "veriwild/1/1/other.jpg"), LakeError),
        ]
        for number, (spoil, kind) in enumerate(spoiled):
            case = small_case(tmp_path / f"case{number}")
            spoil(case)
            with pytest.raises(kind):
                run_ingest(run_of(spark, case, Path(str(ingested.config.path))))
            assert (contents(ingested), versions(ingested)) == (before, at)

    def test_another_case(self, spark: SparkSession, tmp_path: Path, ingested: Lake) -> None:
        case = write_case(tmp_path / "case", ROWS + 1, {"new": blobs(ROWS + 1, 2)})
        with pytest.raises(LakeError, match=r"holds another case .*use another lake.path"):
            run_ingest(run_of(spark, case, Path(str(ingested.config.path))))

    def test_the_same_descriptor_with_other_columns(self, spark: SparkSession, tmp_path: Path, ingested: Lake) -> None:
        case = small_case(tmp_path / "case", other=blobs(ROWS, 7))
        with pytest.raises(LakeError, match=r"holds other as 30 x 2, but .*other.pickle is 30 x 7"):
            run_ingest(run_of(spark, case, Path(str(ingested.config.path))))

    def test_folders(self, spark: SparkSession, tmp_path: Path) -> None:
        with pytest.raises(CaseError, match=r"case.path .*none: there is no such folder"):
            run_ingest(run_of(spark, tmp_path / "none", tmp_path / "lake"))
        (tmp_path / "case" / "descriptors").mkdir(parents=True)
        with pytest.raises(CaseError, match=r"holds no images_paths.csv; name the file as case.images_paths"):
            run_ingest(run_of(spark, tmp_path / "case", tmp_path / "lake"))
        write_paths(tmp_path / "case" / "images_paths.csv", ["a"])
        with pytest.raises(CaseError, match="holds no descriptors"):
            run_ingest(run_of(spark, tmp_path / "case", tmp_path / "lake"))
        assert not (tmp_path / "lake").exists()

    def test_a_pattern_that_only_python_knows(self, spark: SparkSession, tmp_path: Path) -> None:
        """``(?P=name)`` is a regular expression to Python, which reads the config, and not to Java, which runs it."""
        pattern = r"(?P<a>\d)/(?P=a)"
        ctx = run_of(spark, small_case(tmp_path / "case"), tmp_path / "lake", case_options={"vehicle_pattern": pattern})
        with pytest.raises(ConfigError, match=r"case.vehicle_pattern: .*Java"):
            run_ingest(ctx)
        assert not (tmp_path / "lake").exists()

    def test_parquet_keeps_nothing_aside(self, spark: SparkSession, tmp_path: Path) -> None:
        spoiled = blobs(ROWS, 2)
        spoiled[-1] = np.inf
        ctx = run_of(spark, small_case(tmp_path / "case", osnet=spoiled), tmp_path / "lake", "parquet")
        with pytest.raises(CaseError, match="1 rows, first 29"):
            run_ingest(ctx)
        assert leftovers(tmp_path / "lake") == []
