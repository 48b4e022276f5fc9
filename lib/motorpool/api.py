"""Motorpool in Python: a lake as DataFrames and photos, for notebooks and programs; docs/python.md has examples.

``import motorpool`` gives the names of `__all__` here. The same calls work in Jupyter and on Databricks.
"""

from __future__ import annotations

import os
import re
import tempfile
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import pandas as pd

from motorpool.case import files
from motorpool.config.load import load_case, load_config
from motorpool.config.run import CaseConfig, LakeConfig, has_scheme, local_folder
from motorpool.errors import CaseError, ConfigError, LakeError
from motorpool.lake import Lake as SparkLake
from motorpool.lake.reading import Engine, LakeReader
from motorpool.lake.schemas import TABLES, VIEW_ROWS
from motorpool.lake.views import comments as view_comments
from motorpool.photos.montage import jpeg, tile
from motorpool.photos.source import Images, find_images, open_images
from motorpool.pipeline.export import best_of, run_export
from motorpool.pipeline.planning.held import lake_at
from motorpool.pipeline.planning.sizes import is_small
from motorpool.spark.session import build_session
from motorpool.texts import expand_home

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["Lake", "Picture", "assign", "open_lake", "run"]

#: The lake that `make demo` makes.
_DEMO = Path("demo", "lake")
#: Pixels for the head of a line of photos: 17 letters.
_MARGIN = 128
_INK, _FRAME = (70, 70, 70), (190, 190, 190)


@dataclass(frozen=True)
class Picture:
    """A JPEG; notebooks show it when it is a cell's last value."""

    data: bytes = field(repr=False)

    def _repr_jpeg_(self) -> bytes:
        return self.data

    def save(self, file: str | Path) -> None:
        """Write it to a file."""
        Path(file).write_bytes(self.data)


class Lake:
    """A lake for reading; `open_lake` makes it. DataFrames hold the whole answer in memory.

    DuckDB answers for a lake in a folder of this machine where its answer is known to be Spark's. Where it is not, and
    for lakes in catalogs and stores, Spark does; it starts with the first question that needs it.
    """

    def __init__(
        self, config: LakeConfig, settings: Mapping[str, str], images: str | None, engine: Engine = "auto"
    ) -> None:
        self._settings = dict(settings)
        #: The same lake row by row, for answers that do not fit into memory.
        self.reader = LakeReader(config, self._start, engine, print)
        self._images = images

    def _start(self, delta: bool = False) -> SparkLake:
        """The lake as Spark has it; with ``delta`` the session reads Delta tables, whatever the lake's own format."""
        config = self.reader.config
        # Java has a current folder of its own.
        absolute = config.model_copy(update={"path": self.reader.root})
        delta = delta or config.format == "delta"
        return SparkLake(build_session(self._settings, delta=delta, small=is_small(absolute)), absolute)

    def __enter__(self) -> Lake:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give back memory and temporary files."""
        self.reader.close()

    def __repr__(self) -> str:
        return f"Lake({str(self.reader)!r})"

    @property
    def path(self) -> str | None:
        """Where the lake lies, absolute or with its scheme, as SQL takes it; None in a catalog."""
        return self.reader.root

    @property
    def spark(self) -> SparkSession:
        """A Spark session in which tables and views go by their names; it starts where there is none."""
        lake = self.reader.spark()
        lake.register()
        return lake.spark

    # -- tables ------------------------------------------------------------------------------------

    def sql(self, query: str, **values: str | int | bool | None) -> pd.DataFrame:
        """The answer to a query in Spark's SQL; ``values`` take the places of ``:name`` in it.

        Arrays come as NumPy arrays, maps and structs as dicts. Raises ConfigError for a mistake in the query.
        """
        frame = self.reader.sql(query, values).table().to_pandas(maps_as_pydicts="strict")
        return pd.DataFrame(frame)

    def tables(self) -> pd.DataFrame:
        """The tables and views that there are: name, rows, and what a row is."""
        rows = []
        for name in self.reader.names():
            ((n,),) = self.reader.sql(f"SELECT count(*) FROM `{name}`").rows()  # noqa: S608 (this package's names)
            rows.append((name, n, VIEW_ROWS[name] if name in VIEW_ROWS else TABLES[name].rows))
        return pd.DataFrame(rows, columns=["name", "rows", "meaning"])

    def columns(self, table: str) -> pd.DataFrame:
        """The columns of a table or view: name, type, and what it means. ConfigError where there is none."""
        if table not in self.reader.names():
            raise ConfigError(f"{table}: the lake has {', '.join(self.reader.names())}")
        found = self.sql(f"DESCRIBE {table}")[["col_name", "data_type"]]
        comments = TABLES[table].comments if table in TABLES else view_comments(table, self._attributes())
        found = found.rename(columns={"col_name": "name", "data_type": "type"})
        return found.assign(meaning=found["name"].map(lambda name: comments.get(name, "")))

    def images(self) -> pd.DataFrame:
        """The images: image_id, path, vehicle_id, and the columns of the attributes file."""
        return self.sql("SELECT * FROM images ORDER BY image_id")

    def leaderboard(self) -> pd.DataFrame:
        """The models that can be ranked, best first, with their scores. ConfigError where none was fitted."""
        return self.sql("SELECT * FROM leaderboard ORDER BY rank")

    def clusters(self, model: str | None = None) -> pd.DataFrame:
        """The clusters of a model, the leaderboard's best by default: cluster, size, share, title, description,
        exemplars (image_ids, nearest to the centre first)."""
        return self.sql(
            "SELECT cluster, size, share, title, description, exemplars FROM clusters WHERE model_id = :model "
            "ORDER BY cluster",
            model=self._model(model),
        )

    def assignments(self, model: str | None = None) -> pd.DataFrame:
        """The cluster of every image in a model, the leaderboard's best by default: image_id, path, vehicle_id,
        cluster, title, distance, strength."""
        return self.sql(
            "SELECT image_id, path, vehicle_id, cluster, title, distance, strength FROM assignments "
            "WHERE model_id = :model ORDER BY image_id",
            model=self._model(model),
        )

    def labels(self, attribute: str | None = None) -> pd.DataFrame:
        """The label of every image by an attribute: image_id, path, vehicle_id, value, probability, accepted, source.

        Without an attribute, the view ``labelled_images``: a row for each image, with three columns for every
        attribute. ConfigError where there are no such labels.
        """
        if attribute is None:
            return self.sql("SELECT * FROM labelled_images ORDER BY image_id")
        found = self.sql(
            "SELECT l.image_id, i.path, i.vehicle_id, l.value, l.probability, l.accepted, l.source "
            "FROM image_labels AS l INNER JOIN images AS i ON i.image_id = l.image_id "
            "WHERE l.attribute = :attribute ORDER BY l.image_id",
            attribute=attribute,
        )
        if found.empty:
            known = ", ".join(self._attributes()) or "none"
            raise ConfigError(f"{attribute}: no such attribute has labels; there are {known}")
        return found

    def outliers(self) -> pd.DataFrame:
        """The images that the outlier methods agree on, the strangest first: image_id, path, score, reason."""
        return self.sql(
            "SELECT o.image_id, i.path, o.score, r.reason FROM outliers AS o "
            "INNER JOIN images AS i ON i.image_id = o.image_id LEFT JOIN outlier_reasons AS r "
            "ON r.image_id = o.image_id AND r.features = 'consensus' AND r.method = 'consensus' "
            "WHERE o.features = 'consensus' AND o.is_outlier ORDER BY o.score DESC, o.image_id"
        )

    def export(self, out: str | Path, model: str | None = None) -> Path:
        """Write path, cluster, outlier, title, distance, strength and the vote of the vehicle of every image as CSV."""
        run_export(self.reader, Path(expand_home(str(out))), model)
        return Path(out)

    def _attributes(self) -> list[str]:
        """The attributes that have labels."""
        if "label_sets" not in self.reader.names():
            return []
        return [name for (name,) in self.reader.sql("SELECT attribute FROM label_sets ORDER BY attribute").rows()]

    def _model(self, model: str | None) -> str:
        return model or best_of(self.reader)

    # -- photos ------------------------------------------------------------------------------------

    def show(
        self,
        photos: pd.DataFrame | Sequence[int] | None = None,
        *,
        cluster: int | None = None,
        model: str | None = None,
        by: str | None = None,
        columns: int = 10,
        limit: int = 60,
        side: int = 88,
    ) -> Picture:
        """Photos side by side as one JPEG.

        ``photos`` are rows with the column ``path``, or image_ids. Without them, those of a ``cluster`` of a model (the
        leaderboard's best by default), the nearest to its centre first. With ``by``, a column of the rows, each of its
        values has one line of at most ``columns`` photos, headed by the value.

        Missing photos are an empty frame, broken ones a crossed-out one. At most ``limit`` photos are read, as squares
        of ``side`` pixels: a few MB. Raises ConfigError where there are no rows, or no column ``path``; CaseError where
        nobody says where the photos lie.
        """
        if (photos is None) == (cluster is None):
            raise ConfigError("show: give photos (rows or ids), or cluster")
        if cluster is not None:
            photos = self.sql(
                "SELECT path FROM assignments WHERE model_id = :model AND cluster = :cluster "
                "ORDER BY distance, image_id LIMIT 10000",
                model=self._model(model),
                cluster=int(cluster),
            )
        frame = photos if isinstance(photos, pd.DataFrame) else self._paths([int(i) for i in photos or ()][:limit])
        lines = _lines(frame, by, columns, limit)
        if not lines:
            raise ConfigError("show: there are no photos to show")
        return _montage(lines, open_images(self._photos()), side, margin=0 if by is None else _MARGIN)

    def _paths(self, ids: Sequence[int]) -> pd.DataFrame:
        """The paths of images, in the order of their ids."""
        listed = ", ".join(map(str, ids)) or "NULL"
        # S608: whole numbers.
        found = self.sql(f"SELECT image_id, path FROM images WHERE image_id IN ({listed})")  # noqa: S608
        return found.set_index("image_id").reindex([i for i in ids if i in set(found["image_id"])]).reset_index()

    def _photos(self) -> str:
        """The folder or zip of the photos: as told, or the case's from which the lake was made."""
        if self._images is None:
            self._images = self._photos_of_the_case()
        if self._images is None:
            raise CaseError("show: the photos were not found: open_lake(..., images=FOLDER) says where they lie")
        return self._images

    def _photos_of_the_case(self) -> str | None:
        folder = local_folder(self.reader.config.path) if self.reader.config.path is not None else None
        if folder is None or "sources" not in self.reader.names():
            return None
        made_of = [Path(file) for (file,) in self.reader.sql("SELECT file FROM sources ORDER BY file").rows()]
        # A relative path is that of the folder in which the run was started.
        starts = [Path.cwd(), *folder.resolve().parents]
        for file in made_of:
            for case in dict.fromkeys(start / file.parent.parent for start in starts):
                root = find_images(CaseConfig(path=str(case))) if case.is_dir() else None
                if root is not None:
                    return root
        return None


def open_lake(location: str | Path | None = None, *, images: str | Path | None = None, engine: Engine = "auto") -> Lake:
    """A lake, to ask and to look at.

    ``location`` is a lake's folder or URI, a YAML config that names the lake, or ``catalog.schema``. Without one it is
    the environment's ``MOTORPOOL_LAKE``, else the widget ``lake`` on Databricks, else `demo/lake` here or in a folder
    above. ``images`` is the folder or zip of the photos; by default ``MOTORPOOL_IMAGES``, the widget ``images``, or
    that of the case from which the lake was made. ``engine`` is ``auto``, ``duckdb`` or ``spark``, as `Lake` says.

    Raises LakeError where there is no lake, ConfigError for a config that is wrong.
    """
    settings: dict[str, str] = {}
    named = expand_home(str(location or _setting("lake") or _demo()))
    photos = str(images) if images is not None else _setting("images")
    if named.lower().endswith((".yaml", ".yml")):
        loaded = load_config(named)
        config, settings = loaded.lake, loaded.spark
        if photos is None and loaded.case is not None:
            photos = find_images(loaded.case)
    elif re.fullmatch(r"\w+(\.\w+)?", named) and not Path(named).exists():
        *catalog, schema = named.split(".")
        config = LakeConfig.model_validate({"catalog": catalog[0] if catalog else None, "schema": schema})
    else:
        config = lake_at(named)
    lake = Lake(config, settings, photos, engine)
    if "images" not in lake.reader.names():
        raise LakeError(f"{files.redact(named)}: holds no tables of motorpool; run `motorpool run` first")
    return lake


def run(conf: str | Path, **overrides: object) -> Lake:
    """Run the whole pipeline of a YAML config, as `motorpool run` does, and open its lake.

    ``overrides`` set keys of the config: ``run("run.yaml", **{"lake.path": "other", "seed": 7})``. What the lake holds
    already is not made again. Raises what the command exits with, such as ConfigError.
    """
    from motorpool.pipeline.context import Context
    from motorpool.pipeline.run import STAGES, check_config, run_pipeline

    config = load_config(str(conf), [f"{key}={value}" for key, value in overrides.items()])
    check_config(config, STAGES)
    context = Context.start(config)
    try:
        run_pipeline(context)
    finally:
        context.close()
    return Lake(config.lake, config.spark, find_images(config.case) if config.case is not None else None)


def assign(
    lake: Lake, case: str | Path, *, model: str | None = None, attributes: Sequence[str] | None = None
) -> pd.DataFrame:
    """The labels of new images, as `motorpool assign` writes them: path, cluster, title, distance, strength, far,
    vehicle_cluster, vehicle_agreement, and the value, probability and accepted of each attribute.

    ``case`` is the new images' case folder, or a YAML file whose section `case` names its parts. ``model`` is the
    leaderboard's best that can, ``attributes`` are all by default; an empty list gives clusters alone. Spark labels
    them; the DataFrame has a row for each image. Raises ConfigError and CaseError as the command does.
    """
    from motorpool.case.sources import reads_delta
    from motorpool.pipeline.assign import run_assign

    named = expand_home(str(case))
    if named.lower().endswith((".yaml", ".yml")):
        config = load_case(named)
    else:
        config = CaseConfig(path=named if has_scheme(named) else str(Path(named).resolve()))
    spark = lake._start(delta=reads_delta(config))
    with tempfile.TemporaryDirectory(prefix="motorpool-assign-") as folder:
        out = Path(folder) / "labels.parquet"
        run_assign(spark, config, model, out, attributes)
        return pd.read_parquet(out)


def _setting(name: str) -> str | None:
    """The environment's ``MOTORPOOL_<NAME>``, else the Databricks widget; None where there is neither."""
    value = os.environ.get(f"MOTORPOOL_{name.upper()}")
    if value is not None:
        return value
    widgets = _widgets()
    if widgets is None:
        return None
    widgets.text(name, "")
    return str(widgets.get(name)) or None


def _widgets() -> Any:
    """Databricks' input fields, which a notebook there has without importing anything; None elsewhere."""
    try:
        from IPython.core.getipython import get_ipython
    except ImportError:
        return None
    shell = get_ipython()
    return getattr(shell.user_ns.get("dbutils"), "widgets", None) if shell else None


def _demo() -> Path:
    """The demo's lake, seen from the repository or a folder in it, such as that of the notebooks."""
    here = Path.cwd()
    found = next((folder / _DEMO for folder in (here, *here.parents) if (folder / _DEMO).is_dir()), None)
    if found is None:
        raise LakeError(
            f"open_lake: no lake was named, and neither {here} nor a folder above holds {_DEMO}: give its folder, set "
            "MOTORPOOL_LAKE, or run `make demo`"
        )
    # Relative where it can be, so that what notebooks show names no folder of the machine.
    return Path(os.path.relpath(found))


def _lines(frame: pd.DataFrame, by: str | None, columns: int, limit: int) -> list[tuple[str, list[str]]]:
    """The heads and the paths of each line; together at most ``limit`` paths."""
    lacking = [c for c in ("path", by) if c is not None and c not in frame.columns]
    if lacking:
        raise ConfigError(f"show: the rows have no column {lacking[0]!r}, only {', '.join(map(str, frame.columns))}")
    if by is None:
        paths = [str(path) for path in frame["path"].head(limit)]
        return [("", paths[i : i + columns]) for i in range(0, len(paths), columns)]
    groups: dict[str, list[str]] = {}
    for head, path in zip(frame[by], frame["path"], strict=True):
        group = groups.setdefault(str(head), [])
        if len(group) < columns and limit > 0:
            group.append(str(path))
            limit -= 1
    return [(head, paths) for head, paths in groups.items() if paths]


def _montage(lines: Sequence[tuple[str, Sequence[str]]], source: Images, side: int, margin: int) -> Picture:
    from PIL import Image, ImageDraw, ImageFont

    gap = 3
    columns = max(len(paths) for _, paths in lines)
    size = margin + gap + columns * (side + gap), gap + len(lines) * (side + gap)
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for y, (head, paths) in enumerate(lines):
        top = gap + y * (side + gap)
        if margin:
            words = "\n".join(textwrap.wrap(head, 17)[:4])
            draw.multiline_text((gap, top + side // 2), words, fill=_INK, font=font, anchor="lm")
        for x, path in enumerate(paths):
            photo = source.photo(path, side=2 * side)
            left = margin + gap + x * (side + gap)
            sheet.paste(tile(photo, side), (left, top))
            # Blank photos are white, as the sheet is.
            draw.rectangle((left - 1, top - 1, left + side, top + side), outline=_FRAME)
    return Picture(jpeg(sheet, 80))
