"""Nuisance: how far the clusters of every model follow columns such as the camera; a warning where they do."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from motorpool.cluster.ensemble.columns import follow_columns
from motorpool.config.nuisance import NuisanceConfig
from motorpool.errors import ConfigError
from motorpool.pipeline.context import Context, explained
from motorpool.pipeline.pace import timed
from motorpool.pipeline.study import forget, log_not_asked
from motorpool.texts import counted

log = logging.getLogger(__name__)


def run_nuisance(ctx: Context) -> None:
    """Compare every model with columns that no cluster should follow, and warn of those that do.

    All models of the lake that have labels, on the images that models are fitted on. What is measured already stays,
    unless the column has other values by now or the model was fitted again. The column ``warning`` of ``models`` comes
    last, and always says what the config's threshold makes of the table ``nuisance``. Columns that the config no longer
    names go out of the table. Raises ConfigError for columns that ``images`` lacks, and for those whose values images
    do not share.
    """
    config = ctx.config.nuisance
    if config is None:
        held = ctx.lake.exists("nuisance") and ctx.lake.count("nuisance") > 0
        log_not_asked("nuisance", "the config has no section `nuisance`", held)
        if held:
            forget(ctx, "nuisance")
        _warn(ctx, [], 1.0)
        return
    with explained():
        images = ctx.lake.fitted(ctx.lake.read("images"))
        check_nuisance_columns(config, images.columns, "the table images")
        rows = _measured(ctx, config, images)
    _warn(ctx, rows, config.max_nmi)


def check_nuisance_columns(config: NuisanceConfig, there: Collection[str], where: str) -> None:
    """ConfigError for a column that is not among those ``there``."""
    missing = next((c for c in config.columns if c not in there), None)
    if missing is not None:
        attributes = sorted(set(there) - {"image_id", "path", "vehicle_id"})
        raise ConfigError(
            f"nuisance.columns: {missing!r}: {where} has no such column; its attributes are "
            f"{', '.join(attributes) or 'none'}: name one of them, or add the column to the attributes file "
            "(case.attributes)"
        )


def _measured(ctx: Context, config: NuisanceConfig, images: DataFrame) -> list[dict[str, Any]]:
    """The rows of ``nuisance`` that the config asks for, after those that were missing have been written."""
    lake = ctx.lake
    fingerprints = _fingerprints(images, config.columns)
    # A model that puts all images into one cluster, or none, has no labels.
    made = {
        str(r["model_id"]): r["created_at"]
        for r in lake.rows("models", ["model_id", "n_clusters", "n_noise", "created_at"])
        if (r["n_clusters"] or 0) > 1 or (r["n_clusters"] and r["n_noise"])
    }
    stored = lake.rows("nuisance")
    kept = [
        row
        for row in stored
        if fingerprints.get(row["column_name"]) == row["fingerprint"]
        and row["model_id"] in made
        and row["created_at"] >= made[row["model_id"]]
    ]
    there = {(row["model_id"], row["column_name"]) for row in kept}
    missing = {c: [m for m in sorted(made) if (m, c) not in there] for c in config.columns}
    ids = sorted({m for models in missing.values() for m in models})
    if not ids:
        log.info("nuisance: all %s of the lake are compared, nothing to do", counted(len(made), "model"))
        if len(kept) < len(stored):
            lake.overwrite_rows("nuisance", kept)
        return kept
    wanted = [c for c in config.columns if missing[c]]
    with timed(f"nuisance: {counted(len(ids), 'model')} beside {', '.join(wanted)}"):
        labels = lake.fitted(lake.read("labels", model_id=ids))
        found = follow_columns(labels, images, wanted, lake.count("images"))
        new = []
        for column in wanted:
            for model_id in missing[column]:
                of = found.get((model_id, column))
                new.append(
                    {
                        "model_id": model_id, "column_name": column, "nmi": of.nmi if of else None,
                        "nmi_by_chance": of.by_chance if of else None, "n_images": of.n_images if of else 0,
                        "n_values": of.n_values if of else 0, "fingerprint": fingerprints[column],
                    }
                )  # fmt: skip
        rows = [*kept, *new]
        lake.overwrite_rows("nuisance", rows)
    return rows


def _fingerprints(images: DataFrame, columns: Sequence[str]) -> dict[str, str]:
    """A hash of each column, the same for any partitions; ConfigError for one whose values images do not share."""
    quoted = {c: F.col(f"`{c}`") for c in columns}
    sums = [F.sum(F.xxhash64("image_id", q).cast("decimal(38,0)")).alias(f"sum {c}") for c, q in quoted.items()]
    counts = [F.count(q).alias(f"n {c}") for c, q in quoted.items()]
    values = [F.count_distinct(q).alias(f"values {c}") for c, q in quoted.items()]
    row = images.agg(*sums, *counts, *values).first()
    assert row is not None
    for column in columns:
        n, different = int(row[f"n {column}"]), int(row[f"values {column}"])
        if n > 1 and different > n / 2:
            raise ConfigError(
                f"nuisance.columns: {column!r}: it has {different:,} values for {n:,} images, so few images share one: "
                "name a column with fewer values"
            )
    return {column: str(row[f"sum {column}"]) for column in columns}


def _warn(ctx: Context, rows: Sequence[Mapping[str, Any]], max_nmi: float) -> None:
    """Bring ``models.warning`` to what the rows of ``nuisance`` say; writes models whose warning changes alone."""
    said: dict[str, list[str]] = {}
    for row in sorted(rows, key=lambda r: (-(r["nmi"] or 0.0), r["column_name"])):
        if row["nmi"] is not None and row["nmi"] > max(max_nmi, row["nmi_by_chance"]):
            said.setdefault(row["model_id"], []).append(f"{row['column_name']} (NMI {row['nmi']:.2f})")
    warnings = {model_id: f"its clusters follow {', '.join(found)}" for model_id, found in said.items()}
    there = {r["model_id"]: r["warning"] for r in ctx.lake.rows("models", ["model_id", "warning"])}
    changed = [m for m, warning in there.items() if warning != warnings.get(m)]
    if warnings:
        log.warning(
            "nuisance: %d of %d models follow a column that no cluster should follow; models.warning says which",
            len(warnings), len(there),
        )  # fmt: skip
    if changed:
        models = [row | {"warning": warnings.get(row["model_id"])} for row in ctx.lake.rows("models", model_id=changed)]
        ctx.lake.replace_rows("models", models, {"model_id": changed})
