"""What a lake holds, and what a config still asks for, as far as small tables tell."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

from motorpool.config.run import Config, LakeConfig
from motorpool.errors import ConfigError
from motorpool.lake.local_tables import Tables
from motorpool.lake.schemas import TABLES
from motorpool.pipeline.lookalikes.duplicates import asked_searches
from motorpool.pipeline.lookalikes.neighbours import asked_neighbours
from motorpool.pipeline.planning.opening import descriptor_names
from motorpool.pipeline.planning.problems import Problems
from motorpool.pipeline.stages.project import asked_maps
from motorpool.pipeline.stages.report import is_report, report_folder
from motorpool.pipeline.study import model_ids


@dataclass(frozen=True)
class SetStatus:
    """A feature set: its columns, its images, and its models."""

    name: str
    n_features: int
    n_images: int
    n_models: int


@dataclass(frozen=True)
class AttributeStatus:
    """An attribute: the photos that somebody looked at, and of its labels the share that is right and the accepted.

    The last three are None where the lake has no labels of it.
    """

    name: str
    n_looks: int
    accuracy: float | None = None
    n_accepted: int | None = None
    n_left: int | None = None


@dataclass(frozen=True)
class Status:
    """What a lake holds. ``models`` counts them by algorithm and status, ``tables`` the rows of those that exist."""

    tables: dict[str, int]
    sets: list[SetStatus]
    models: dict[str, Counter[str]]
    attributes: list[AttributeStatus]


def status_of(tables: Tables) -> Status:
    """What a lake holds. Memory: as much as its small tables; of the large ones rows are counted only."""
    models: dict[str, Counter[str]] = defaultdict(Counter)
    of_set = Counter[str]()
    for row in tables.rows("models", ["features", "algorithm", "status"]):
        models[row["algorithm"]][row["status"]] += 1
        of_set[row["features"]] += 1
    sets = sorted(tables.rows("feature_sets", ["features", "n_features", "n_images"]), key=lambda r: str(r["features"]))
    return Status(
        {name: tables.count(name) for name in TABLES if tables.exists(name)},
        [SetStatus(r["features"], r["n_features"], r["n_images"], of_set[r["features"]]) for r in sets],
        dict(sorted(models.items())),
        _attributes(tables),
    )


def _attributes(tables: Tables) -> list[AttributeStatus]:
    looked: dict[str, set[int]] = defaultdict(set)
    for row in tables.rows("annotations", ["attribute", "image_id"]):
        looked[row["attribute"]].add(row["image_id"])
    labelled = {
        row["attribute"]: (row["accuracy"], row["n_accepted"], row["n_images"] - row["n_accepted"])
        for row in tables.rows("label_sets", ["attribute", "accuracy", "n_accepted", "n_images"])
    }
    return [
        AttributeStatus(name, len(looked.get(name, ())), *labelled.get(name, ()))
        for name in sorted({*looked, *labelled})
    ]


def written_report(lake: LakeConfig, out: str | None) -> Path | None:
    """The folder of the report, where one has been written."""
    try:
        folder = report_folder(lake, out)
    except ConfigError:
        # No folder that a report could be in.
        return None
    return folder if is_report(folder) else None


@dataclass(frozen=True)
class StageStatus:
    """What a config asks of a stage, and how much of it the lake holds; ``why`` says where that is not known."""

    stage: str
    noun: str = ""
    n_asked: int = 0
    n_there: int = 0
    why: str = ""


def left_over(config: Config, tables: Tables) -> list[StageStatus]:
    """The stages whose rest small tables tell: `ingest`, `features`, `cluster`, `project`, `duplicates`, `neighbours`.

    All others follow from the ranking, from the looks, or from the photos.
    """
    defined = {r["features"]: r["definition"] for r in tables.rows("feature_sets", ["features", "definition"])}
    sets = config.feature_sets
    fitted = {r["model_id"] for r in tables.rows("models", ["model_id"])}
    asked = model_ids(config) or set()
    made = [spec.name for spec in sets if defined.get(spec.name) == spec.definition]
    found = [
        _ingested(config, tables),
        StageStatus("features", "feature sets", len(sets), len(made)),
        StageStatus("cluster", "models", len(asked), len(asked & fitted)),
    ]
    if config.projections is not None:
        params = asked_maps(config.projections, config.seed)
        names = [s.name for s in sets if config.projections.features is None or s.name in config.projections.features]
        rows = tables.rows("projection_methods", ["features", "method", "params"])
        there = {(r["features"], r["method"]): dict(r["params"] or {}) for r in rows}
        same = [1 for name in names for method in params if there.get((name, method)) == params[method]]
        found.append(StageStatus("project", "maps", len(names) * len(params), len(same)))
    return [*found, *_compared(config, tables)]


def _compared(config: Config, tables: Tables) -> list[StageStatus]:
    """The stages that compare all images."""
    found = []
    if config.duplicates is not None:
        problems = Problems()
        with problems.noted():
            found.append(_searched("duplicates", asked_searches(config), tables, "duplicate_searches"))
        if problems:
            found.append(StageStatus("duplicates", why=problems[0]))
    if config.neighbours is not None:
        found.append(_searched("neighbours", asked_neighbours(config), tables, "neighbour_searches"))
    return found


def _searched(stage: str, asked: dict[str, dict[str, str]], tables: Tables, table: str) -> StageStatus:
    there = {r["features"]: dict(r["params"] or {}) for r in tables.rows(table, ["features", "params"])}
    # What the column of a split holds, only Spark can tell.
    same = [name for name, params in asked.items() if there.get(name, {}).items() >= params.items()]
    return StageStatus(stage, "searches", len(asked), len(same))


def _ingested(config: Config, tables: Tables) -> StageStatus:
    if config.case is None:
        return StageStatus("ingest", why="the config names no case")
    problems = Problems()
    names: list[str] = []
    with problems.noted():
        names = descriptor_names(config.case)
    if problems:
        return StageStatus("ingest", why=problems[0])
    there = {r["descriptor"] for r in tables.rows("sources", ["descriptor"])}
    return StageStatus("ingest", "descriptors", len(names), len(there & set(names)))
