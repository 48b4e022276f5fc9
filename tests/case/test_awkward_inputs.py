"""Configs, files and names as people have them: read as they are meant, or refused in a sentence that says why."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pyspark.sql import SparkSession

from cases import image_paths, write_case, write_paths
from motorpool.case.csv_files import csv_rows, read_header
from motorpool.case.folder import Case, find_case
from motorpool.case.images import read_images
from motorpool.case.photo_files.reader import heads_of
from motorpool.case.tables import path_column, read_attributes, read_paths
from motorpool.cluster.algorithms.dbscan import DbscanGrid
from motorpool.config.load import load_config, parse_config
from motorpool.config.run import CaseConfig
from motorpool.errors import CaseError, ConfigError
from motorpool.interpret.overrides import load_overrides
from motorpool.photos.source import open_images
from motorpool.pipeline.context import explained
from motorpool.report.figures.charts import Series
from motorpool.texts import as_number, decode, encoding_of, expand_home

LAKE: dict[str, Any] = {"lake": {"path": "x"}}


# -- numbers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("5e-1", 0.5), ("1e3", 1000), ("1E+3", 1000), (".5", 0.5), ("5.", 5), (" 2.5e0 ", 2.5), ("-1e-2", -0.01),
        ("1e400", "1e400"), ("1e", "1e"), ("nan", "nan"), ("0x10", "0x10"), ("1_000", "1_000"), ("", ""), (True, True),
        (None, None), ("1e3 km", "1e3 km"),
    ],
)  # fmt: skip
def test_numbers_that_yaml_takes_for_text(text: Any, number: Any) -> None:
    found = as_number(text)
    assert (found, type(found)) == (number, type(number))


def test_every_number_of_a_config_may_be_scientific(tmp_path: Path) -> None:
    text = """
lake: {path: x}
features:
  - name: a
    descriptor: a
    steps: [{clip: [1e-3, 9.99e-1]}, {pca: 9e-1}, {pca: 1e2}]
  - {name: j, join: [{descriptor: a, weight: 5e-1}, {descriptor: b}]}
vehicles: {fit_share: 4e-1, models_per_features: 1e1}
cluster:
  models:
    - {algorithm: dbscan, eps: [5e-1, 1e3], min_samples: 1e1}
    - {algorithm: dbscan, eps: 5e-1, min_samples: 4}
    - {algorithm: kmeans, k: [2..4, 1e1], tol: 1e-5, max_iter: 1e2}
    - {algorithm: gaussian_mixture, n_components: 2, tol: 1e-4, reg_covar: 1e-5}
  min_cluster_share: 1e-4
  max_noise_share: 5e-1
outliers: {share: 1e-2}
projections: {perplexity: 2e1, sample: 1e4}
report: {models: 5e0, points: 1e3}
seed: 1e3
spark: {spark.x: 1e3}
"""
    file = tmp_path / "run.yaml"
    file.write_text(text)
    config = load_config(file, ["cluster.models.0.eps=[2e-1]", "outliers.share=3e-2"])
    first, second, kmeans, mixture = config.cluster.models
    assert isinstance(first, DbscanGrid)
    assert isinstance(second, DbscanGrid)
    assert (first.eps, first.min_samples, second.eps) == ((0.2,), (10,), (0.5,))
    assert (kmeans.k, kmeans.tol, kmeans.max_iter) == ((2, 3, 4, 10), 1e-5, 100)  # type: ignore[union-attr]
    assert (mixture.tol, mixture.reg_covar) == (1e-4, 1e-5)  # type: ignore[union-attr]
    assert [s.param for s in config.features[0].steps] == [(0.001, 0.999), 0.9, 100]
    assert config.features[1].join is not None
    assert config.features[1].join[0].weight == 0.5
    assert (config.vehicles.fit_share, config.vehicles.models_per_features) == (0.4, 10)
    assert (config.cluster.min_cluster_share, config.cluster.max_noise_share) == (1e-4, 0.5)
    assert config.outliers is not None
    assert config.projections is not None
    assert config.report is not None
    assert (config.outliers.share, config.projections.perplexity, config.projections.sample) == (0.03, 20.0, 10_000)
    assert (config.report.models, config.report.points, config.seed) == (5, 1000, 1000)
    # Text stays text where text is meant: a model's id may look like a number.
    assert config.spark == {"spark.x": "1e3"}
    assert parse_config({**LAKE, "report": {"models": ["12345678901234e1"]}}).report.named_models == (  # type: ignore[union-attr]
        "12345678901234e1",
    )


# -- configs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"lake": {"path": "a\0b"}}, "lake.path: 'a\\x00b': a path cannot hold a zero byte"),
        ({"seed": True}, "seed: True: expected a number"),
        ({"seed": 10**400}, "seed: 1000"),
        ({1: 2}, "[1]"),
        ({"lake": ["y" * 1000] * 50}, "lake: ['yyy"),
        ({"cluster": {"models": [{"algorithm": "dbscan", "eps": 10**400, "min_samples": 4}]}}, "distances above 0"),
        ({"cluster": {"models": [{"algorithm": "kmeans", "k": "2..99999999999"}]}}, "more than 100,000"),
        (
            {"cluster": {"models": [{"algorithm": "agglomerative", "n_clusters": 3, "linkage": [{}]}]}},
            "cluster.models[0].linkage[0]: {}:",
        ),
        ({"cluster": {"models": [3]}}, "cluster.models[0]: 3:"),
        ({"features": [None]}, "features[0]: None:"),
    ],
)
def test_what_no_config_may_hold(sections: dict[Any, Any], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(LAKE | sections)
    assert expected in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lake: {path: a}\nlake: {path: b}\n", "the key 'lake' is given twice"),
        ("lake: {path: a, format: parquet, path: b}", "the key 'path' is given twice"),
        ("lake: 2026-13-45", "is no valid YAML: month must be in 1..12"),
        ("seed: " + "1" * 5000, "is no valid YAML"),
        ("a: " + "[" * 3000, "too deep"),
        ("lake: &a [*a]", "lake"),
    ],
)
def test_yaml_that_is_no_config(tmp_path: Path, text: str, expected: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    assert expected in str(caught.value)
    assert str(file) in str(caught.value)


def test_merged_keys_are_not_given_twice(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("spark: {<<: {spark.a: x, spark.b: y}, spark.a: z}\nlake: {path: a}\n")
    assert load_config(file).spark == {"spark.a": "z", "spark.b": "y"}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_texts_in_the_encodings_of_windows(tmp_path: Path, encoding: str) -> None:
    config, titles = tmp_path / "run.yaml", tmp_path / "titles.yaml"
    config.write_bytes("lake: {path: Köln}".encode(encoding))
    titles.write_bytes("m: {0: {title: Köln}}".encode(encoding))
    if encoding in ("utf-16-le", "utf-16-be"):  # Without a mark.
        for read in (load_config, lambda file: load_overrides(str(file))):
            with pytest.raises(ConfigError, match="zero bytes and no byte order mark, so it is no text: save it as"):
                read(config)
        return
    assert load_config(config).lake.path == "Köln"
    assert load_overrides(str(titles))["m", 0].title == "Köln"


def test_texts_that_cannot_be_read_say_where() -> None:
    with pytest.raises(ValueError, match=r"no UTF-8 text \(byte 1: .*\): save it as UTF-8"):
        decode("Köln".encode("cp1252"))
    with pytest.raises(ValueError, match=r"no UTF-16 text"):
        decode("Köln".encode("utf-16")[:-1])
    assert encoding_of("x".encode("utf-32")) == "utf-32"


def test_home_in_every_path_of_a_config(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    parts = {key: f"~/{key}" for key in ("path", "images_paths", "images_root", "attributes")}
    config = parse_config(
        {
            "case": {**parts, "descriptors": {"a": "~/a.npy"}},
            "lake": {"path": "~/lake"},
            "report": {"titles": "~/t.yaml", "out": "~/report"},
        }
    )
    assert config.case is not None
    assert config.report is not None
    assert {k: getattr(config.case, k) for k in parts} == {k: f"/home/ada/{k}" for k in parts}
    assert config.case.descriptors == {"a": "/home/ada/a.npy"}
    assert config.lake.path == "/home/ada/lake"
    assert (config.report.titles, config.report.out) == ("/home/ada/t.yaml", "/home/ada/report")
    assert expand_home("s3://bucket/~/x") == "s3://bucket/~/x"
    assert expand_home("~no-such-user/x") == "~no-such-user/x"
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run.yaml").write_text("lake: {path: ~/l}")
    assert load_config("~/run.yaml").lake.path == str(tmp_path / "l")


# -- tables of a case --------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_paths_in_the_encodings_of_windows(spark: SparkSession, tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "images_paths.csv"
    names = ["veriwild\\1\\ö\\a b.jpg", "./x/'\".jpg", "<i>&amp;.jpg"]
    quoted = ["paths", names[0], '"./x/\'"".jpg"', names[2]]
    file.write_bytes(("\r\n".join(quoted) + "\r\n").encode(encoding))
    rows = read_paths(spark, str(file)).orderBy("image_id").collect()
    assert [tuple(r) for r in rows] == [(0, "veriwild/1/ö/a b.jpg"), (1, "x/'\".jpg"), (2, names[2])]


LISTED = ["C:\\photos\\1\\ö.jpg", "b c/2,3.jpg", "4;5.png"]
FORMS = {
    "usual": 'paths\n{0}\n"{1}"\n{2}\n',
    "another name": 'path\n{0}\n"{1}"\n{2}\n',
    "one column of any name": 'bild\n{0}\n"{1}"\n{2}\n',
    "no name": '{0}\n"{1}"\n{2}\n',
    "a quoted name": '"Paths"\n{0}\n"{1}"\n{2}\n',
    "an index of pandas": ',image_path\n0,{0}\n1,"{1}"\n2,{2}\n',
    "an index and any name": 'Unnamed: 0,x\n0,{0}\n1,"{1}"\n2,{2}\n',
    "semicolons": 'id;paths\n7;{0}\n8;{1}\n9;"{2}"\n',
    "tabs": 'n\tfile_name\t"a,b;c"\n1\t{0}\tx\n2\t{1}\ty\n3\t{2}\tz\n',
    "mixed line ends": 'paths\r\n{0}\n"{1}"\r\n{2}',
    "old line ends": 'paths\r{0}\r"{1}"\r{2}\r',
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("form", FORMS)
def test_lists_of_paths_as_people_have_them(tmp_path: Path, form: str, encoding: str) -> None:
    """Read by what a task of Spark does, without Spark."""
    file = tmp_path / "list.csv"
    file.write_bytes(FORMS[form].format(*LISTED).encode(encoding))
    column = path_column(str(file), read_header(str(file)))
    rows = [row for batch in csv_rows(str(file), [column]) for row in batch.to_pylist()]
    assert [(r["row"], r["c0"]) for r in rows] == list(enumerate(LISTED))


def test_the_index_of_pandas_is_no_attribute(spark: SparkSession, tmp_path: Path) -> None:
    write_paths(tmp_path / "list.csv", ["x/1.jpg", "x/2.jpg"])
    (tmp_path / "attributes.csv").write_text(";Path;color;Unnamed: 3\n0;x/1.jpg;red;\n1;x/2.jpg;;\n")
    paths = read_paths(spark, str(tmp_path / "list.csv"))
    found = read_attributes(paths, str(tmp_path / "attributes.csv"))
    assert sorted(tuple(r) for r in found.collect()) == [("x/1.jpg", "red"), ("x/2.jpg", None)]
    assert found.columns == ["path", "color"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("paths\nKöln.jpg\n".encode("cp1252"), "is neither UTF-8 nor UTF-16 text: save it as UTF-8"),
        ("pfade_ö\nx.jpg\n".encode("cp1252"), "is neither UTF-8 nor UTF-16 text: save it as UTF-8"),
        ("paths\nx.jpg\n".encode("utf-16-le"), "save it as UTF-8"),
        (b"", "cannot be read as CSV"),
        (b"\0\0\0\0", "save it as UTF-8"),
        (b"a;b\nc;d\n", "needs a column `paths`, found a, b. Call the column of the paths so"),
        (b"paths,paths\na,b\n", "'paths' appears more than once"),
    ],
)
def test_tables_that_cannot_be_read(spark: SparkSession, tmp_path: Path, content: bytes, expected: str) -> None:
    file = tmp_path / "images_paths.csv"
    file.write_bytes(content)
    with pytest.raises(CaseError) as caught, explained():
        read_paths(spark, str(file)).collect()
    assert expected in str(caught.value)
    assert str(file) in str(caught.value)


def test_a_folder_is_no_table(tmp_path: Path) -> None:
    with pytest.raises(CaseError, match="is a folder, expected a file"):
        read_header(str(tmp_path))


def attributes_of(tmp_path: Path, columns: Sequence[str], rows: int = 6) -> Case:
    """Attributes whose value in column c of row r is ``c-r``."""
    paths = [p.replace("\\", "/") for p in image_paths(rows)]
    lines = [",".join(["path", *columns])] + [
        ",".join([p, *(f"{c}-{r}" for c in columns)]) for r, p in enumerate(paths)
    ]
    (tmp_path / "attributes.csv").write_text("\n".join(lines) + "\n")
    write_paths(tmp_path / "images_paths.csv", image_paths(rows))
    return Case({}, str(tmp_path / "images_paths.csv"), str(tmp_path / "attributes.csv"))


#: Names that helper columns have, or had, somewhere in the project.
OURS = (
    "row", "c0", "c1", "position", "cluster", "clusters", "typical", "n", "count", "value", "told", "attribute",
    "model", "features", "vector", "_salt", "at", "id", "data", "ids", "width", "score", "paths", "a.b", "SELECT",
    "<b>",
)  # fmt: skip


def test_any_name_of_a_column_is_the_users(spark: SparkSession, tmp_path: Path) -> None:
    columns = OURS
    case = attributes_of(tmp_path, columns)
    images = read_images(read_paths(spark, case.images_paths), case, r"veriwild/[^/]+/([^/]+)/", None)
    assert images.columns == ["image_id", "path", "vehicle_id", *columns]
    found = images.collect()
    assert [r["image_id"] for r in found] == list(range(6))
    for row in found:
        assert {c: row[c] for c in columns} == {c: f"{c}-{row['image_id']}" for c in columns}
        assert row["vehicle_id"] == f"{row['image_id'] // 3 + 1:05d}"


@pytest.mark.parametrize(("pattern", "column"), [(None, None), (None, "track"), (r"veriwild/[^/]+/([^/]+)/", None)])
def test_the_vehicles_column_in_any_case(
    spark: SparkSession, tmp_path: Path, pattern: str | None, column: str | None
) -> None:
    case = attributes_of(tmp_path, ["Vehicle_ID", "track"])
    images = read_images(read_paths(spark, case.images_paths), case, pattern, column)
    assert images.columns == ["image_id", "path", "vehicle_id", "track"]
    expected = {"track": "track-4", None: "00002" if pattern else "Vehicle_ID-4"}[column]
    assert images.where("image_id = 4").select("vehicle_id", "track").collect() == [(expected, "track-4")]


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (["Image_ID"], "'Image_ID' would hide the table's own 'image_id': rename it"),
        (["Path"], "'Path' would hide the table's own 'path': rename it"),
        (["color", "Color"], "'color' appears more than once"),
        (["a b"], "column 'a b': rename it"),
    ],
)
def test_columns_that_would_meet_the_tables_own(
    spark: SparkSession, tmp_path: Path, columns: list[str], expected: str
) -> None:
    case = attributes_of(tmp_path, columns)
    with pytest.raises(CaseError) as caught:
        read_images(read_paths(spark, case.images_paths), case, None)
    assert expected in str(caught.value)


def test_veri_wilds_own_file_gives_attributes(spark: SparkSession, tmp_path: Path) -> None:
    """Semicolons, the last two parts of paths, blanks before values; one photo is of another case, one is missing."""
    info = tmp_path / "vehicle_info.txt"
    info.write_text(
        "id/image;Camera ID;Time;Model;Type;Color\n"
        "00001/000001;15;2018-03-11 07:04:36;Lavida, old; SUV;dark gray\n"
        "00001/000002.jpg;16;2018-03-11 07:05:00;;sedan;\n"
        "99999/000003;16;2018-03-11 07:05:00;Polo;sedan;red\n"
    )
    write_paths(tmp_path / "images_paths.csv", image_paths(4))
    case = Case({}, str(tmp_path / "images_paths.csv"), str(info))
    images = read_images(read_paths(spark, case.images_paths), case, r"veriwild/[^/]+/([^/]+)/", None)
    assert images.columns == ["image_id", "path", "vehicle_id", "camera_id", "time", "model", "type", "color"]
    found = {r["image_id"]: (r["path"], r["camera_id"], r["model"], r["type"], r["color"]) for r in images.collect()}
    assert found[0] == ("veriwild/1/00001/000001.jpg", "15", "Lavida, old", "SUV", "dark gray")
    assert found[1] == ("veriwild/2/00001/000002.jpg", "16", None, "sedan", None)
    assert [found[i][1:] for i in (2, 3)] == [(None,) * 4] * 2


@pytest.mark.parametrize("names", [("image_id",), ("Image_Id",), ("osnet", "OSNet")])
def test_descriptors_that_would_be_one_column(tmp_path: Path, names: Sequence[str]) -> None:
    config = CaseConfig(descriptors={n: f"{n}.npy" for n in names}, images_paths="paths.csv")
    with pytest.raises(CaseError, match=f"a descriptor cannot be named '{names[-1]}' beside"):
        find_case(config)


# -- photos ------------------------------------------------------------------------------------------

PATHS = ["veriwild/1/00001/000001.jpg", "veriwild/2/00002/000002.jpg"]


def picture(red: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (red, 0, 0)).save(file, "PNG")
    return file.getvalue()


def packed(file: Path, names: Sequence[str], *others: str) -> str:
    with zipfile.ZipFile(file, "w") as z:
        for name in others:
            z.writestr(name, "" if name.endswith("/") else b"\0\5\x16\7 of a Mac")
        for i, name in enumerate(names):
            z.writestr(name, picture(100 * (i + 1)))
    return str(file)


def reds(root: str) -> list[int | str]:
    """The red of both photos, or what is wrong."""
    found = [open_images(root).photo(path) for path in PATHS]
    return [p.image.getpixel((0, 0))[0] if p.image is not None else str(p.problem) for p in found]  # type: ignore[index]


BY_PRODUCTS = ("__MACOSX/", "__MACOSX/veriwild/1/00001/._000001.jpg", "veriwild/1/00001/._000001.jpg", ".DS_Store")


@pytest.mark.parametrize("top", ["", "./", "export/", "my photos/2026/raw_data/"])
@pytest.mark.parametrize("separator", ["/", "\\"])
@pytest.mark.parametrize("inner", [False, True])
def test_zips_as_people_pack_them(tmp_path: Path, top: str, separator: str, inner: bool) -> None:
    names = [(top + p.removeprefix("veriwild/" if inner else "")).replace("/", separator) for p in PATHS]
    folders = [] if separator == "\\" else [f"{top}veriwild/", f"{top}veriwild/1/"]
    # What is no photo says nothing of where the photos lie, in front of them or in folders of its own.
    assert reds(packed(tmp_path / "a.zip", names, "README.txt", *folders, *BY_PRODUCTS, "docs/x.txt")) == [100, 200]


def test_a_macs_by_products_are_no_photos(tmp_path: Path) -> None:
    root = packed(tmp_path / "a.zip", [PATHS[0]], "__MACOSX/veriwild/2/00002/000002.jpg")
    assert reds(root) == [100, "missing"]
    assert open_images(root).photo("__MACOSX/veriwild/2/00002/000002.jpg").problem == "missing"


def test_no_photo_stands_for_another(tmp_path: Path) -> None:
    """The other camera's photo of the same name is not taken for one that is missing."""
    root = packed(tmp_path / "a.zip", [PATHS[0], "veriwild/3/00002/000002.jpg", "old/veriwild/2/00002/000002.jpg"])
    assert reds(root) == [100, "missing"]


@pytest.mark.parametrize("top", ["", "export", "export/2026/raw_data"])
def test_folders_below_one_folder_more(tmp_path: Path, top: str) -> None:
    for i, path in enumerate(PATHS):
        file = tmp_path / "root" / top / path
        file.parent.mkdir(parents=True)
        file.write_bytes(picture(100 * (i + 1)))
    (tmp_path / "root" / "__MACOSX").mkdir()
    (tmp_path / "root" / ".thumbnails").mkdir()
    assert reds(str(tmp_path / "root")) == [100, 200]


def test_where_photos_begin() -> None:
    assert heads_of([]) == ("",)
    assert heads_of(["a.jpg"]) == ("",)
    assert heads_of(["t/a.jpg", "t/u/b.JPG", "x/c.txt"]) == ("", "t/")
    assert heads_of(["t/u/a.jpg", "t/u/b.jpg"]) == ("", "t/", "t/u/")
    assert heads_of(["t/a.jpg", "tu/b.jpg"]) == ("",)


# -- charts ------------------------------------------------------------------------------------------


def test_points_without_a_place_are_not_drawn() -> None:
    nan, inf = float("nan"), float("inf")
    series = Series("s", [1.0, 2.0, inf, 4.0], [1.0, nan, 3.0, 4.0], text=["a", "b", "c", "d"], hollow=[True] * 4)
    assert (series.x, series.y, series.text, series.hollow) == ([1.0, 4.0], [1.0, 4.0], ["a", "d"], [True, True])


def test_a_whole_case_with_awkward_names(tmp_path: Path) -> None:
    folder = write_case(tmp_path / "a [1] {b,c} ü 'q'", 6)
    assert sorted(find_case(CaseConfig(path=str(folder))).descriptors) == [
        "efficientnet-b7", "osnet", "vdc_color", "vdc_type",
    ]  # fmt: skip
