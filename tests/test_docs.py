"""The documentation says what the code does: descriptions are complete, pages are current, links and commands exist."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic import BaseModel
from pyspark.sql import SparkSession

from motorpool.config import Config
from motorpool.schemas import TABLES, VIEW_COMMENTS, VIEW_ROWS, VIEWS


def _sections(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        for field in annotation.model_fields.values():
            yield from _sections(field.annotation)
    for item in get_args(annotation):
        yield from _sections(item)


def test_every_config_key_has_a_description() -> None:
    sections = set(_sections(Config))
    assert len(sections) > 15
    for section in sections:
        assert section.__doc__, section
        for name, field in section.model_fields.items():
            assert field.description, f"{section.__name__}.{name}"
            assert field.description.rstrip("`").endswith("."), f"{section.__name__}.{name}"


@pytest.mark.parametrize("name", TABLES)
def test_every_column_has_a_comment(name: str) -> None:
    table = TABLES[name]
    assert table.rows.startswith("One row per ")
    # Names stand in front of a type in capitals, at the start or behind a comma that is in no type.
    depth, names, word = 0, [], ""
    for sign in f"{table.columns},":
        depth += (sign in "<(") - (sign in ">)")
        if sign == "," and depth == 0:
            names.append(word.split()[0])
            word = ""
        else:
            word += sign
    assert list(table.comments) == names
    assert all(comment.endswith(".") for comment in table.comments.values())


def test_every_column_of_a_view_has_a_comment(spark: SparkSession) -> None:
    assert list(VIEW_ROWS) == list(VIEW_COMMENTS) == list(VIEWS)
    names = {}
    for name, table in TABLES.items():
        names[name] = f"docs_{name}"
        spark.createDataFrame([], table.schema).createOrReplaceTempView(names[name])
    try:
        for name, query in VIEWS.items():
            assert list(VIEW_COMMENTS[name]) == spark.sql(query.format(**names)).columns
    finally:
        for view in names.values():
            spark.catalog.dropTempView(view)
