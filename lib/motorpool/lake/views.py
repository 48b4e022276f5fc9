"""The lake's views over its tables: for one session, or in a catalog for all who read there."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence

from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from motorpool.config.labels import columns_of
from motorpool.lake.local_tables import Tables
from motorpool.lake.schemas import TABLES, VIEW_COMMENTS, VIEWS

log = logging.getLogger(__name__)

_OF_LABELS = TABLES["image_labels"].comments


def needed(view: str) -> set[str]:
    """The tables that a view is made of."""
    query = VIEWS[view]
    return {t for t in TABLES if "{" + t + "}" in query}


def labelled_attributes(tables: Tables) -> list[str]:
    """The attributes that have labels in a lake."""
    return sorted(row["attribute"] for row in tables.rows("label_sets", ["attribute"]))


def attribute_columns(attributes: Iterable[str]) -> str:
    """The columns of `labelled_images` behind those of images, for the attributes of a lake, in SQL."""
    columns = []
    for attribute in attributes:
        # The names are those of a config, of letters, digits and a few signs.
        own = f"l.attribute = '{attribute}'"
        for name, value in zip(columns_of(attribute), ("value", "probability", "accepted"), strict=True):
            columns.append(f", max(IF({own}, l.{value}, NULL)) AS `{name}`")
    return "".join(columns)


def comments(view: str, attributes: Iterable[str]) -> dict[str, str]:
    """The columns of a view in their order, and what they mean."""
    found = dict(VIEW_COMMENTS[view])
    if "{attributes}" in VIEWS[view]:
        for attribute in attributes:
            value, probability, accepted = columns_of(attribute)
            found[value] = f"Label by the attribute `{attribute}`: {_OF_LABELS['value']}"
            found[probability] = _OF_LABELS["probability"]
            found[accepted] = _OF_LABELS["accepted"]
    return found


def _head(view: str, attributes: Iterable[str]) -> str:
    """The columns with their comments, as CREATE VIEW takes them."""
    quoted = {name: text.replace("\\", "\\\\").replace("'", "\\'") for name, text in comments(view, attributes).items()}
    return ", ".join(f"`{name}` COMMENT '{text}'" for name, text in quoted.items())


def make_temporary(
    spark: SparkSession, wanted: Iterable[str], names: Mapping[str, str], attributes: Sequence[str]
) -> None:
    """Temporary views of this session; ``names`` are tables as SQL selects from them, and attributes' columns."""
    for view in wanted:
        # Both sides are this package's own text and checked names.
        head = _head(view, attributes)
        spark.sql(f"CREATE OR REPLACE TEMPORARY VIEW `{view}` ({head}) AS {VIEWS[view].format(**names)}")


def make_lasting(
    spark: SparkSession, wanted: Iterable[str], names: Mapping[str, str], attributes: Sequence[str], schema: str
) -> None:
    """The same in a catalog's schema, whose quoted name is ``schema``; a warning where this account may not."""
    for view in wanted:
        try:
            head = _head(view, attributes)
            spark.sql(f"CREATE OR REPLACE VIEW {schema}.`{view}` ({head}) AS {VIEWS[view].format(**names)}")
        except PySparkException as exc:
            reason = str(exc).split("\n")[0]
            log.warning("view %s: is not made in %s, so others cannot read it by name: %s", view, schema, reason)
