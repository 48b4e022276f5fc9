"""The section on models: the table, the curves, the agreement and the tree, drawn and as values for the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from motorpool.cluster.registry import ALGORITHMS
from motorpool.lake import Lake
from motorpool.report import page, queries
from motorpool.report.figures import charts, data_files, dendrogram, drawing
from motorpool.report.palette import Palettes, palette_of
from motorpool.report.scoring import ranking_words, table_scores
from motorpool.report.verdict import headline
from motorpool.report.wording import capital, records


class ModelSection:
    """Draws the pictures into ``folder/figures`` as it is made."""

    def __init__(
        self,
        lake: Lake,
        folder: Path,
        overview: queries.Overview,
        models: pd.DataFrame,
        best: pd.DataFrame,
        clusters: pd.DataFrame,
        pairs: pd.DataFrame,
        feature_sets: pd.DataFrame,
        palettes: Palettes,
    ) -> None:
        self._lake, self._models, self._overview = lake, models, overview
        self._figures = folder / "figures"
        order = list(dict.fromkeys(models["features"]))
        made = [
            *charts.score_charts(models),
            charts.variance_chart(feature_sets),
            charts.k_distance_chart(queries.k_distances(lake), order),
            charts.size_chart(best, clusters, palettes),
        ]
        self.charts = [chart for chart in made if chart is not None]
        for chart in self.charts:
            drawing.draw_chart(chart, self._figures / f"{chart.name}.png")
            data_files.write_chart(chart, self._figures / f"{chart.name}.csv")
        #: The colours of the tree's clusters, by its model.
        self.tree_palette: dict[str, dict[int, str]] = {}
        self.tree = self._draw_tree()
        self._agreement = self._draw_agreement(pairs)

    def context(self) -> dict[str, Any]:
        drawn = {chart.name: chart for chart in self.charts}
        scores = [(s, drawn[name]) for s in table_scores() if (name := charts.score_chart_name(s)) in drawn]
        rows = page.board(self._models, self._overview.n_images)
        return {
            "board": rows,
            "ranking_words": ranking_words(),
            "board_cut": len(rows) < self._overview.n_models,
            "board_features": sorted({r["features"] for r in rows}),
            "board_algorithms": sorted({r["algorithm"] for r in rows}),
            "score_charts": [
                {"name": c.name, "title": c.title, "note": c.note, "short": s.title, "how": s.reading}
                for s, c in scores
            ],
            "variance_chart": _heading(drawn.get("explained_variance")),
            "k_chart": _heading(drawn.get("k_distances")),
            "size_chart": _heading(drawn.get("cluster_sizes")),
            "agreement": self._agreement,
            "tree": self.tree and {"name": "dendrogram", "title": self.tree["title"], "note": self.tree["note"]},
        }

    def _draw_agreement(self, pairs: pd.DataFrame) -> dict[str, Any] | None:
        if pairs.empty:
            return None
        # A column with failed models holds NaN, and so floats.
        known = self._models[self._models["n_clusters"].notna()]
        counts = dict(zip(known["model_id"], known["n_clusters"].astype(int), strict=True))
        names, ari = drawing.agreement_matrix(pairs, counts)
        drawing.draw_agreement(names, ari, self._figures / "agreement.png")
        rows = ([name, *("" if np.isnan(v) else v for v in row)] for name, row in zip(names, ari.tolist(), strict=True))
        data_files.write_rows(self._figures / "agreement.csv", ["model", *names], rows)
        return {"names": names, "rows": [[None if np.isnan(v) else float(v) for v in row] for row in ari]}

    def _draw_tree(self) -> dict[str, Any] | None:
        """The tree of the model with a tree that is ranked best, or of the first where none is ranked."""
        with_tree = [name for name, algorithm in ALGORITHMS.items() if algorithm.draws_tree]
        made = self._models[self._models["algorithm"].isin(with_tree) & (self._models["n_clusters"] > 1)]
        if made.empty:
            return None
        model = made.iloc[0]
        found = queries.tree(self._lake, model["model_id"], model["params"].get("tree_of", model["model_id"]))
        if found is None:
            return None
        named = queries.clusters(self._lake, [model["model_id"]])
        drawn = dendrogram.branches(found)
        title = f"{capital(headline(model))}, {model['params'].get('linkage', 'unknown')} linkage"
        tree = dendrogram.to_json(drawn) | {"model_id": model["model_id"], "title": title, "note": _left_out(drawn)}
        self.tree_palette = {model["model_id"]: palette_of(queries.colours(named))}
        data_files.write_rows(
            self._figures / "dendrogram.csv",
            ("line", "cluster", *(f"across_{at}" for at in range(1, 5)), *(f"height_{at}" for at in range(1, 5))),
            (
                (at, cluster if cluster >= 0 else "", *across, *height)
                for at, (cluster, across, height) in enumerate(
                    zip(tree["line_cluster"], tree["across"], tree["height"], strict=True)
                )
            ),
        )
        titles = {r["cluster"]: r["title"] for r in records(named)}
        palette = self.tree_palette[model["model_id"]]
        return tree | {"names": drawing.draw_tree(tree, titles, self._figures / "dendrogram.png", palette)}


def _heading(chart: charts.Chart | None) -> dict[str, str] | None:
    return chart.heading if chart is not None else None


def _left_out(tree: dendrogram.Branches) -> str:
    """What the drawn tree does not show of the cut; empty where every leaf lies in one cluster."""
    several = [n for n in tree.leaf_clusters if n > 1]
    if not several:
        return ""
    return f"{len(tree.leaf_clusters)} leaves are drawn: {len(several)} of them stand for {sum(several):,} clusters."
