"""Titles that people give, as the models of a lake have them."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from motorpool.interpret.overrides import Named, Override, Overrides, load_overrides, resolve_overrides
from motorpool.lake import Lake
from motorpool.lake.local_tables import LocalTables
from motorpool.pipeline.study import fingerprint


def named_models(lake: Lake | LocalTables) -> list[Named]:
    """All models with clusters. Driver memory: some hundred bytes a model, and 30 a cluster."""
    last = lake.fetch("clusters", ["model_id", "cluster"]).group_by("model_id").aggregate([("cluster", "max")])
    n_clusters = {r["model_id"]: r["cluster_max"] + 1 for r in last.to_pylist()}
    rows = lake.rows("models", ["model_id", "features", "algorithm"])
    known = {r["model_id"]: r for r in rows}
    return [
        Named(m, known[m]["features"] if m in known else "", known[m]["algorithm"] if m in known else "", n)
        for m, n in sorted(n_clusters.items())
    ]


def given_titles(lake: Lake | LocalTables, path: str | None, preferred: Collection[str] | None) -> Overrides:
    """What a file of titles calls clusters, by model_id; see `resolve_overrides`. ConfigError as there."""
    if path is None:
        return {}
    return resolve_overrides(load_overrides(path), named_models(lake), path, preferred)


def titles_fingerprint(given: Overrides, models: Collection[str]) -> str:
    """What people call the clusters of some models, as 16 digits; empty where they call them nothing."""
    own = [[m, c, o.title, o.description] for (m, c), o in sorted(given.items(), key=_key) if m in models]
    return fingerprint(own) if own else ""


def of_model(given: Overrides, model_id: str) -> Mapping[int, Override]:
    return {cluster: override for (m, cluster), override in given.items() if m == model_id}


def _key(item: tuple[tuple[str, int], Override]) -> tuple[str, int]:
    return item[0]
