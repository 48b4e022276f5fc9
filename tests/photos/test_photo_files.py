"""Where photos lie: folders, zips, tars and tables give the same photos, and hostile ones are refused."""

from __future__ import annotations

import io
import os
import struct
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake
from PIL import Image

from motorpool.case.photo_files import open_photo_files, reader
from motorpool.case.photo_files.tars import _kept
from motorpool.errors import CaseError
from motorpool.photos.source import open_images

Photos = dict[str, bytes]
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def photo(color: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (20, 10), (color, 10 * color % 256, 90)).save(out, "PNG")
    return out.getvalue()


PHOTOS: Photos = {f"road/{i // 3}/{i:04d}.png": photo(i) for i in range(11)}


def as_folder(root: Path, photos: Photos) -> Path:
    for name, data in photos.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def as_zip(root: Path, photos: Photos) -> Path:
    file = root.with_suffix(".zip")
    with zipfile.ZipFile(file, "w") as z:
        for name, data in photos.items():
            z.writestr(name, data)
    return file


def write_tar(file: Path, photos: Photos, layout: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(file, "w", format=layout) as tar:
        for name, data in photos.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
            note = tarfile.TarInfo(f"{name}.json")
            tar.addfile(note)
    return file


def as_tar(root: Path, photos: Photos) -> Path:
    return write_tar(root.with_suffix(".tar"), photos)


def hugging_face(photos: Photos, **columns: Sequence[object]) -> pa.Table:
    rows = [{"bytes": data, "path": name} for name, data in photos.items()]
    return pa.table({"label": list(range(len(rows))), "image": pa.array(rows, IMAGE), **columns})


def as_parquet(root: Path, photos: Photos) -> Path:
    pq.write_table(hugging_face(photos), root.with_suffix(".parquet"), row_group_size=4, compression="none")
    return root.with_suffix(".parquet")


def as_shards(root: Path, photos: Photos) -> Path:
    root.mkdir()
    names = list(photos)
    for shard, part in enumerate((names[:5], names[5:])):
        table = hugging_face({name: photos[name] for name in part})
        pq.write_table(table, root / f"train-{shard}-of-2.parquet", row_group_size=2)
    return root


def binary_file(photos: Photos) -> pa.Table:
    return pa.table(
        {
            "path": [f"dbfs:/Volumes/{name}" for name in photos],
            "modificationTime": pa.array([0] * len(photos), pa.timestamp("us")),
            "length": [len(data) for data in photos.values()],
            "content": pa.array(list(photos.values()), pa.binary()),
        }
    )


@pytest.mark.parametrize("make", [as_folder, as_zip, as_tar, as_parquet, as_shards])
def test_every_place_gives_the_same_photos(make: Callable[[Path, Photos], Path], tmp_path: Path) -> None:
    place = open_photo_files(str(make(tmp_path / "photos", PHOTOS)))
    assert list(place.names()) == list(PHOTOS)
    # Forward, backward, and each again: tables read forward.
    for name in [*PHOTOS, *reversed(PHOTOS), list(PHOTOS)[7], list(PHOTOS)[7]]:
        assert place.read(name.replace("/", "\\")) == PHOTOS[name]
        assert place.has(name)
    assert not place.has("road/0/9999.png")
    images = open_images(str(tmp_path / "photos" if make in (as_folder, as_shards) else make(tmp_path / "p", PHOTOS)))
    assert images.photo("road/0/0001.png").size == (20, 10)
    assert images.photo("road/0/9999.png").problem == "missing"


def test_photos_below_other_files_are_listed_in_the_order_of_their_parts(tmp_path: Path) -> None:
    names = ["b/2.jpg", "b/10.JPG", "b-1.png", "b/1/x.gif", "a.txt", ".hidden/1.jpg", "__MACOSX/1.jpg", "b/._2.jpg"]
    root = as_folder(tmp_path / "some", dict.fromkeys(names, b"-"))
    os.symlink(root / "b", root / "again")
    expected = ["b/1/x.gif", "b/10.JPG", "b/2.jpg", "b-1.png"]
    assert list(open_photo_files(str(root)).names()) == expected
    # Archives know no hidden names.
    packed = as_zip(tmp_path / "other", dict.fromkeys(expected[::-1], b"-"))
    assert list(open_photo_files(str(packed)).names()) == expected
    assert list(open_photo_files(str(tmp_path)).names()) == [f"some/{name}" for name in expected]


def test_a_name_that_is_no_text_is_told(tmp_path: Path) -> None:
    with open(os.fsencode(tmp_path) + b"/\xff.jpg", "wb"):
        pass
    with pytest.raises(CaseError, match=r"udcff.jpg' is no UTF-8 text: rename it"):
        list(open_photo_files(str(tmp_path)).names())


# -- tars --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_and_blanks_in_tars(layout: int, tmp_path: Path) -> None:
    names = ["a b/ü.png", "/".join(["d" * 60] * 3) + "/1.jpg", "./c/2.jpeg"]
    place = open_photo_files(str(write_tar(tmp_path / "x.tar", {n: n.encode() for n in names}, layout)))
    assert list(place.names()) == [n.removeprefix("./") for n in names]
    assert all(place.read(n) == n.encode() for n in names)


def test_a_folder_of_tars_is_one_place(tmp_path: Path) -> None:
    root = tmp_path / "shards"
    root.mkdir()
    for shard in (2, 10):
        write_tar(root / f"{shard}.tar", {f"{shard:02d}{i}.jpg": bytes([shard, i]) for i in range(3)})
    (root / "2.parquet").write_bytes(b"what is known of them")
    place = open_photo_files(str(root))
    assert list(place.names()) == ["2/020.jpg", "2/021.jpg", "2/022.jpg", "10/100.jpg", "10/101.jpg", "10/102.jpg"]
    assert place.read("10/101.jpg") == place.read("101.jpg") == bytes([10, 1])
    assert not place.has("2/101.jpg")
    assert not place.has("999.jpg")


def entry(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, size, link
    return info


@pytest.mark.parametrize(
    ("info", "told"),
    [
        (entry("../out.jpg"), "'../out.jpg', which is absolute or leads out of it"),
        (entry("a/../../out.jpg"), "leads out of it"),
        (entry("/etc/out.jpg"), "which is absolute"),
        (entry("C:/out.jpg"), "which is absolute"),
        (entry("a.jpg", tarfile.SYMTYPE, link="/etc/hostname"), "'a.jpg' is a link or no plain file"),
        (entry("a.jpg", tarfile.LNKTYPE, link="good.jpg"), "is a link"),
        (entry("a.jpg", tarfile.FIFOTYPE), "is a link or no plain file"),
        (entry("a.jpg", size=10**12), "ends within 'a.jpg'"),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_hostile_tars_are_refused_when_they_are_opened(info: tarfile.TarInfo, told: str, tmp_path: Path) -> None:
    file = tmp_path / "x.tar"
    good = entry("good.jpg", size=3)
    file.write_bytes(good.tobuf() + b"abc".ljust(512, b"\0") + info.tobuf() + bytes(1024))
    with pytest.raises(CaseError, match=told) as caught:
        open_photo_files(str(file))
    assert str(caught.value).startswith(str(file))


def test_a_header_that_claims_much_is_not_read(tmp_path: Path) -> None:
    for kind in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME):
        file = tmp_path / f"{kind.decode()}.tar"
        with open(file, "wb") as f:
            f.write(entry("x", kind, 2**30).tobuf(tarfile.GNU_FORMAT))
            f.truncate(2**30 + 2048)
        with pytest.raises(CaseError, match=r"a header says that it takes 1,073,741,824 bytes"):
            open_photo_files(str(file))


def test_damaged_tars_are_told_and_large_photos_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_tar(tmp_path / "x.tar", PHOTOS)
    whole = file.read_bytes()
    places = [whole.index(name.encode()) for name in PHOTOS]
    damages = {
        "cut": whole[: places[6] + 600],
        "within a header": whole[: places[6] + 100],
        "header": whole[: places[6]] + b"?" * 512 + whole[places[6] + 512 :],
        "no tar": b"?" * 2048,
        "empty": b"",
    }
    for what, data in damages.items():
        bad = tmp_path / f"{what}.tar"
        bad.write_bytes(data)
        with pytest.raises(CaseError, match=f"{what}.tar: "):
            open_photo_files(str(bad))
    monkeypatch.setattr(reader, "MAX_BYTES", 20)
    _kept.cache_clear()
    assert "more than 20" in open_images(str(file)).photo("road/0/0001.png").reason


def test_negative_sizes_do_not_go_in_circles(tmp_path: Path) -> None:
    raw = bytearray(entry("a.jpg").tobuf())
    raw[124:136] = b"\xff" * 4 + struct.pack(">q", -1024)
    raw[148:156] = b" " * 8
    raw[148:156] = f"{sum(raw):06o}\0 ".encode()
    (tmp_path / "x.tar").write_bytes(entry("b.jpg").tobuf() + bytes(raw) + bytes(1024))
    with pytest.raises(CaseError, match=r"x\.tar"):
        open_photo_files(str(tmp_path / "x.tar"))


@pytest.mark.parametrize("name", ["x.tar.gz", "x.tgz"])
def test_compressed_tars_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(CaseError, match=r"unpack it to .tar"):
        open_photo_files(str(tmp_path / name))


def test_zips_that_lead_out_are_not_listed(tmp_path: Path) -> None:
    place = open_photo_files(str(as_zip(tmp_path / "x", {"../a.jpg": b""})))
    with pytest.raises(CaseError, match=r"x.zip: holds '../a.jpg'"):
        list(place.names())


# -- tables ------------------------------------------------------------------------------------------


def test_binary_file_tables_go_by_their_own_paths(tmp_path: Path) -> None:
    pq.write_table(binary_file(PHOTOS), tmp_path / "p.parquet", row_group_size=3)
    place = open_photo_files(str(tmp_path / "p.parquet"))
    assert list(place.names()) == [f"dbfs:/Volumes/{name}" for name in PHOTOS]
    assert [place.read(name) for name in place.names()] == list(PHOTOS.values())


def test_delta_tables_are_read_in_their_latest_version(tmp_path: Path) -> None:
    names = list(PHOTOS)
    write_deltalake(tmp_path / "t", binary_file(dict.fromkeys(names, b"old")))
    write_deltalake(tmp_path / "t", binary_file({n: PHOTOS[n] for n in names[:6]}), mode="overwrite")
    write_deltalake(tmp_path / "t", binary_file({n: PHOTOS[n] for n in names[6:]}), mode="append")
    place = open_photo_files(str(tmp_path / "t"))
    assert {name: place.read(name) for name in place.names()} == {f"dbfs:/Volumes/{n}": d for n, d in PHOTOS.items()}
    for log in (tmp_path / "t" / "_delta_log").iterdir():
        log.unlink()
    with pytest.raises(CaseError, match=r"t: this Delta table cannot be read"):
        open_photo_files(str(tmp_path / "t"))


@pytest.mark.parametrize("paths", [[None, "a.jpg", "b.jpg"], ["a.jpg", "b.jpg", "a.jpg"], ["", "a.jpg", "b.jpg"]])
def test_rows_without_paths_of_their_own_go_by_file_and_row(paths: list[str | None], tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    for shard in (0, 1):
        rows = [{"bytes": bytes([shard, i]), "path": path} for i, path in enumerate(paths)]
        pq.write_table(pa.table({"image": pa.array(rows, IMAGE)}), root / f"train-{shard}.parquet", row_group_size=2)
    place = open_photo_files(str(root))
    assert list(place.names()) == [f"train-{shard}/{row:06d}" for shard in (0, 1) for row in range(3)]
    assert place.read("train-1/000002") == bytes([1, 2])


def test_rows_without_bytes_are_missing_photos(tmp_path: Path) -> None:
    rows = [{"bytes": None, "path": "a.jpg"}, None, {"bytes": b"x", "path": "c.jpg"}]
    pq.write_table(pa.table({"image": pa.array(rows, IMAGE)}), tmp_path / "p.parquet")
    images = open_images(str(tmp_path / "p.parquet"))
    found = [images.photo(f"p/{row:06d}") for row in range(3)]
    assert [(p.problem, p.reason[:21]) for p in found] == [
        ("missing", "its row holds no byte"),
        ("missing", "its row holds no byte"),
        ("broken", "cannot be decoded: it"),
    ]


@pytest.mark.parametrize(
    "columns",
    [
        {"image": pa.array([{"bytes": "text", "path": "a"}])},
        {"image": pa.array([{"bytes": b"x", "path": 1}])},
        {"content": pa.array([b"x"])},
        {"content": pa.array([b"x"]), "path": pa.array([1])},
        {"content": pa.array([b"x"]), "mask": pa.array([b"x"]), "path": pa.array(["a"])},
        {"image": pa.array([{"bytes": b"x", "path": "a"}]), "mask": pa.array([{"bytes": b"x", "path": "a"}])},
        {"path": pa.array(["a"])},
    ],
)
def test_tables_that_do_not_say_where_the_photos_are(columns: dict[str, pa.Array], tmp_path: Path) -> None:
    pq.write_table(pa.table(columns), tmp_path / "p.parquet")
    with pytest.raises(CaseError, match=r"p.parquet: does not say which column holds the photos: .* found \w+ "):
        open_photo_files(str(tmp_path / "p.parquet"))


def test_a_table_that_lies_about_its_columns_is_refused(tmp_path: Path) -> None:
    """Arrow's own note in the footer calls them photos, what is stored is numbers."""
    table = pa.table({"image": pa.array([1, 2])})
    out = io.BytesIO()
    with pq.ParquetWriter(out, table.schema, store_schema=False) as writer:
        writer.write_table(table)
        note = pa.schema([("image", IMAGE)]).serialize().to_pybytes()
        import base64

        writer.add_key_value_metadata({"ARROW:schema": base64.b64encode(note).decode()})
    (tmp_path / "p.parquet").write_bytes(out.getvalue())
    with pytest.raises(CaseError, match=r"p.parquet: "):
        open_photo_files(str(tmp_path / "p.parquet"))


def test_damaged_tables_lose_photos_and_stop_nothing(tmp_path: Path) -> None:
    file = as_parquet(tmp_path / "x", PHOTOS)
    whole = bytearray(file.read_bytes())
    place = whole.index(PHOTOS["road/1/0005.png"])
    whole[place - 50 : place] = b"\xff" * 50
    file.write_bytes(bytes(whole))
    images = open_images(str(file))
    found = {name: images.photo(name).problem for name in PHOTOS}
    assert "broken" in found.values()
    # Other row groups are whole.
    assert [found[name] for name in list(PHOTOS)[:4]] == [None] * 4
    assert [found[name] for name in list(PHOTOS)[8:]] == [None] * 3
    file.write_bytes(bytes(whole[:-20]))
    with pytest.raises(CaseError, match=r"x.parquet: is no Parquet file, or is cut off"):
        open_photo_files(str(file))


def test_tables_beside_photos_are_no_photos(tmp_path: Path) -> None:
    root = as_folder(tmp_path / "some", PHOTOS)
    pq.write_table(pa.table({"key": ["a"], "caption": ["b"]}), root / "00000.parquet")
    assert list(open_photo_files(str(root)).names()) == list(PHOTOS)
