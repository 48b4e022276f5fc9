"""Import: a file in which people say what they saw becomes rows of ``annotations``, all of them or none."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from motorpool.annotations import read_annotations, reader_of
from motorpool.case import files
from motorpool.config.labels import AttributeConfig
from motorpool.config.run import has_scheme
from motorpool.errors import AnnotationError, ConfigError
from motorpool.lake import Lake
from motorpool.pipeline.annotating.attributes import check_known, check_name
from motorpool.pipeline.annotating.photos import locate
from motorpool.pipeline.context import explained
from motorpool.spark import blocks
from motorpool.spark.blocks import Batches
from motorpool.spark.tasks import one_each
from motorpool.texts import NAME_PATTERN

log = logging.getLogger(__name__)

#: What a row of ``annotations`` is found by.
KEY = ("image_id", "attribute", "annotator")
#: Wrong lines of a file that an error lists, at most.
_LINES = 5
_BATCH = 4096
_ANNOTATIONS = (
    "line BIGINT, path STRING, attribute STRING, value STRING, annotator STRING, purpose STRING, draw STRING, "
    "stratum STRING, weight DOUBLE"
)
_FIELDS = [part.split()[0] for part in _ANNOTATIONS.split(", ")]
_ARROW = pa.schema([("line", pa.int64()), *((f, pa.string()) for f in _FIELDS[1:-1]), ("weight", pa.float64())])


@dataclass(frozen=True)
class Imported:
    """Annotations of one attribute: added, with another answer than before, and as they were."""

    attribute: str
    n_new: int
    n_changed: int
    n_same: int


@dataclass(frozen=True)
class Asked:
    """What the command says about a file. None leaves it to the file."""

    annotator: str
    purpose: str | None = None
    attribute: str | None = None
    #: What the file calls the attribute, where that is not its name.
    column: str | None = None


def check_file(path: str, asked: Asked) -> None:
    """Before Spark starts: AnnotationError for a file of another kind, ConfigError for a name that is none."""
    reader_of(path)
    if not files.exists(path):
        raise AnnotationError(f"{files.redact(path)}: there is no such file")
    if asked.attribute is not None:
        check_name(asked.attribute)
    if asked.column is not None and asked.attribute is None:
        raise ConfigError(f"--column {asked.column!r}: is what the file calls an attribute: give --attribute too")


def import_file(
    lake: Lake, path: str, asked: Asked, attributes: Mapping[str, AttributeConfig] | None = None
) -> list[Imported]:
    """Add a file's annotations to the lake, in one write; what is there already is not written again.

    With ``attributes``, those of the config, values must be among theirs. A photo that an audit drew stays kept aside
    for audits, whoever looks at it. AnnotationError, before anything is written, for paths that mean no image or
    several, for unknown values, for two answers of one person about one photo, and for audits of photos that labels
    are learned from: with the first lines where they are.
    """
    names = _names(asked, attributes)
    wanted = frozenset([asked.column.lower()]) if asked.column else (frozenset(names) if names else None)
    with lake.held(), explained():
        annotations = _read(lake.spark, path, wanted)
        images = lake.read("images").select("image_id", "path")
        located = locate(_filled_in(annotations, asked, names), images)
        with blocks.kept(_checked(located, _earlier(lake), attributes)) as checked:
            _refuse(checked, path)
            counts = checked.groupBy("attribute", "status").count().orderBy("attribute").collect()
            if not counts:
                raise AnnotationError(_nothing(path, asked, names))
            found = {(r["attribute"], r["status"]): int(r["count"]) for r in counts}
            if any(status != "same" for _, status in found):
                rows = checked.where("status <> 'same'").withColumn("created_at", F.current_timestamp())
                lake.upsert("annotations", rows, KEY)
    return [
        Imported(name, *(found.get((name, status), 0) for status in ("new", "changed", "same")))
        for name in dict.fromkeys(r["attribute"] for r in counts)
    ]


def _names(asked: Asked, attributes: Mapping[str, AttributeConfig] | None) -> dict[str, str]:
    """The names of the attributes by those in small letters; empty where any name will do."""
    if asked.attribute is None:
        return {name.lower(): name for name in attributes or ()}
    check_known(asked.attribute, attributes)
    return {asked.attribute.lower(): asked.attribute}


def _nothing(path: str, asked: Asked, names: Mapping[str, str]) -> str:
    of = f" of {asked.column or ', '.join(names.values())}" if names else ""
    return (
        f"{files.redact(path)}: holds no annotation{of}: rows with an empty value are not looked at yet; where the "
        "file calls the attribute otherwise, name that with --column"
    )


# -- reading -------------------------------------------------------------------------------------------


def _read(spark: SparkSession, path: str, wanted: frozenset[str] | None) -> DataFrame:
    """The file's annotations, read as a stream by one task."""
    where = path if has_scheme(path) or path.startswith("dbfs:") else str(Path(path).resolve())
    shown = files.redact(path)

    def rows_of(file: str) -> Batches:
        annotations = read_annotations(file, wanted, shown)
        while some := list(itertools.islice(annotations, _BATCH)):
            columns = [pa.array([getattr(a, f.name) for a in some], f.type) for f in _ARROW]
            yield pa.RecordBatch.from_arrays(columns, schema=_ARROW)

    return one_each(spark, [where], rows_of, _ANNOTATIONS)


def _filled_in(annotations: DataFrame, asked: Asked, names: Mapping[str, str]) -> DataFrame:
    """``annotations`` with what the command says: the attribute's name, who looked, and for which purpose."""
    attribute = F.col("attribute")
    if asked.attribute is not None:
        attribute = F.lit(asked.attribute)
    elif names:
        known = F.create_map(*(F.lit(text) for item in names.items() for text in item))
        attribute = F.try_element_at(known, F.lower("attribute"))
        if len(names) == 1:
            attribute = F.coalesce(attribute, F.lit(next(iter(names.values()))))
    purpose = F.coalesce(F.lit(asked.purpose), "purpose", F.lit("train"))
    drawn = purpose == "audit"
    return annotations.select(
        "line",
        "path",
        attribute.alias("attribute"),
        "value",
        F.coalesce("annotator", F.lit(asked.annotator)).alias("annotator"),
        purpose.alias("purpose"),
        "draw",
        F.when(drawn, F.col("stratum")).alias("stratum"),
        F.when(drawn, F.col("weight")).alias("weight"),
    )


# -- checking ------------------------------------------------------------------------------------------

_ANSWER = ("value", "purpose", "draw", "stratum", "weight")


def _earlier(lake: Lake) -> DataFrame:
    """What is known of a photo and attribute: ``own``, the rows by time; ``drawn``, what an audit gave; ``trained``."""
    audit = F.col("purpose") == "audit"
    return (
        lake.read_or_empty("annotations")
        .groupBy("image_id", "attribute")
        .agg(
            F.sort_array(F.collect_list(F.struct("created_at", "annotator", *_ANSWER))).alias("own"),
            F.max(F.when(audit, F.struct("draw", "stratum", "weight"))).alias("drawn"),
            F.bool_or(~audit).alias("trained"),
        )
    )


def _checked(located: DataFrame, earlier: DataFrame, attributes: Mapping[str, AttributeConfig] | None) -> DataFrame:
    """One row an annotation: its columns, ``status`` (new, changed, same), and ``line`` with its ``problem`` or null.

    Rows without a problem have a key each.
    """
    one = located.withColumn("image_id", F.when(F.size("found") == 1, F.get("found", F.lit(0))))
    answer = F.coalesce("value", F.lit("?"))
    # Rows whose photo is not known have nothing in common.
    key = (F.coalesce(F.col("image_id"), -F.col("line") - 1).alias("image_id"), "attribute", "annotator")
    grouped = one.groupBy(*key).agg(
        F.min_by(F.struct("line", "path", "found", *_ANSWER), "line").alias("first"),
        F.min(F.struct(answer.alias("a"), "line")).alias("least"),
        F.max(F.struct(answer.alias("a"), "line")).alias("most"),
    )
    kept = grouped.join(earlier, on=["image_id", "attribute"], how="left")
    mine = F.try_element_at(F.filter("own", lambda x: x["annotator"] == F.col("annotator")), F.lit(-1))
    keeps = (F.col("first.purpose") == "train") & F.col("drawn").isNotNull()
    new = {
        "value": F.col("first.value"),
        "purpose": F.when(keeps, F.lit("audit")).otherwise(F.col("first.purpose")),
        **{c: F.when(keeps, F.col(f"drawn.{c}")).otherwise(F.col(f"first.{c}")) for c in ("draw", "stratum", "weight")},
    }
    same = F.lit(True)
    for name, column in new.items():
        same = same & column.eqNullSafe(mine[name])
    status = F.when(mine.isNull(), "new").when(same, "same").otherwise("changed")
    return kept.select(
        F.col("first.line").alias("line"),
        "image_id",
        "attribute",
        "annotator",
        *(column.alias(name) for name, column in new.items()),
        status.alias("status"),
        _problem(attributes).alias("problem"),
    )


def _problem(attributes: Mapping[str, AttributeConfig] | None) -> Column:
    """What is wrong with a row of `_checked`, as text behind its line; null where nothing is."""
    path, value, attribute = F.col("first.path"), F.col("first.value"), F.col("attribute")
    n_found = F.size("first.found")
    least, most = F.col("least"), F.col("most")
    other = F.when(least["line"] == F.col("first.line"), most).otherwise(least)
    problem = (
        F.when(attribute.isNull(), "the file does not name the attribute: give --attribute")
        .when(
            ~attribute.rlike(f"^(?:{NAME_PATTERN.pattern})$"),
            F.format_string(
                "%s: cannot be an attribute's name: give --attribute NAME --column '%s'", attribute, attribute
            ),
        )
        .when(n_found == 0, F.format_string("%s: no image of the lake has this path", path))
        .when(n_found > 1, F.format_string("%s: says too little: %d images or more end so", path, n_found))
    )
    for name, config in (attributes or {}).items():
        if config.values is not None:
            strange = (attribute == name) & value.isNotNull() & ~value.isin(list(config.values))
            listed = ", ".join(config.values[:12]) + (", ..." if len(config.values) > 12 else "")
            text = F.format_string("%s: is no value of %s, which has %s", value, F.lit(name), F.lit(listed))
            problem = problem.when(strange, text)
    told_twice = F.format_string(
        "%s: %s, but line %d says %s: one person gives a photo one answer",
        path, F.coalesce(value, F.lit("?")), other["line"], other["a"],
    )  # fmt: skip
    learned = F.format_string(
        "%s: labels are learned from this photo, so an audit of it would tell nothing: draw another sample", path
    )
    return problem.when(least["a"] != most["a"], told_twice).when(
        (F.col("first.purpose") == "audit") & F.coalesce("trained", F.lit(False)), learned
    )


def _refuse(checked: DataFrame, path: str) -> None:
    # A line with several attributes has the problem of its path several times.
    wrong = checked.where(F.col("problem").isNotNull()).select("line", "problem").distinct()
    rows = wrong.orderBy("line").limit(_LINES + 1).collect()
    if not rows:
        return
    lines: Sequence[str] = [f"line {r['line']:,}: {r['problem']}" for r in rows[:_LINES]]
    more = wrong.count() - _LINES if len(rows) > _LINES else 0
    rest = [f"and {more:,} more lines"] if more > 0 else []
    listed = "\n  ".join([*lines, *rest])
    raise AnnotationError(f"{files.redact(path)}: nothing was imported:\n  {listed}")
