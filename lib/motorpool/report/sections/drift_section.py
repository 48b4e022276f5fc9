"""The section on appended images: how far they differ from those that models were fitted on, in words and as bars."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from motorpool.cluster.registry import ALGORITHMS
from motorpool.lake import Lake
from motorpool.percentages import percent
from motorpool.report import queries
from motorpool.report.commands import Commands
from motorpool.report.figures import charts, data_files, drawing
from motorpool.report.verdict import Fact, headline
from motorpool.report.wording import algorithm_noun, capital, is_missing, number, records, share
from motorpool.texts import counted

#: Models in the table, and appends in theirs, the latest ones.
MAX_SHOWN = 24


class DriftSection:
    """Reads the tables and draws the bars into ``folder/figures`` as it is made; nothing where nothing was appended.

    Of every feature set the best model that labels new images. Driver memory: a row for each model and append, and one
    for each cluster of the models shown.
    """

    def __init__(self, lake: Lake, folder: Path, models: pd.DataFrame) -> None:
        self._lake = lake
        self._rows = queries.drift(lake)
        of_all = self._rows[self._rows["append_id"] == queries.ALL_APPENDS]
        # In the order of the leaderboard, models without a rank last.
        known = models.merge(of_all.drop(columns=["reason", "created_at"]), on="model_id", how="inner")
        self._known = known.merge(of_all[["model_id", "reason"]].rename(columns={"reason": "why"}), on="model_id")
        self._shown = self._known.drop_duplicates("features").head(MAX_SHOWN)
        self.charts: list[charts.Chart] = []
        if self._shown.empty:
            return
        ids = self._shown["model_id"].tolist()
        chart = charts.drift_chart(self._shown, queries.clusters(lake, ids), queries.appended_sizes(lake, ids))
        self.charts = [chart]
        drawing.draw_chart(chart, folder / "figures" / f"{chart.name}.png")
        data_files.write_chart(chart, folder / "figures" / f"{chart.name}.csv")

    def context(self, commands: Commands) -> dict[str, Any]:
        """What the template shows; ``drift`` is None where there is nothing to show."""
        if self._shown.empty:
            return {"drift": None}
        first = records(self._shown)[0]
        appends = queries.appends(self._lake)
        # One whose images are not in the lake yet has not been measured.
        appends = appends[appends["append_id"].isin(self._rows["append_id"])]
        n_due, n_models = int(self._known["refit_due"].sum()), len(self._known)
        due = bool(first["refit_due"])
        drift = {
            "headline": "New images: a new fit is due" if due else "New images fit the clusters",
            "model": headline(first),
            "came": f"{counted(int(appends['n_images'].sum()), 'image')} came in {counted(len(appends), 'append')}",
            "facts": _facts(first),
            "refit": commands.new_fit() if due else None,
            "far": (
                commands.far_images(first["model_id"], int(appends["first_image_id"].min()), first["far_from"])
                if _tells_far(first)
                else None
            ),
            "rows": [_cells(row) for row in records(self._shown)],
            "due": f"Of {counted(n_models, 'model')} that label new images, {n_due:,} should be fitted anew.",
            "appends": self._appends(first, appends),
            "chart": self.charts[0].heading,
        }
        return {"drift": drift}

    def _appends(self, model: Mapping[str, Any], appends: pd.DataFrame) -> list[dict[str, str]]:
        """One model over the appends, the latest first; none where there is a single one."""
        if len(appends) < 2:
            return []
        own = self._rows[self._rows["model_id"] == model["model_id"]].assign(algorithm=model["algorithm"])
        beside = appends[["append_id", "created_at"]].rename(columns={"created_at": "came_at"})
        both = beside.merge(own, on="append_id", how="inner").sort_values("came_at", ascending=False)
        rows = records(both.head(MAX_SHOWN))
        return [{"came": f"{row['came_at']:%Y-%m-%d %H:%M}", **_measures(row)} for row in rows]


def _tells_far(row: Mapping[str, Any]) -> bool:
    """Whether a model knows which images are far: by their distance, or as noise."""
    algorithm = ALGORITHMS.get(row["algorithm"])
    return not is_missing(row["far_from"]) or (algorithm is not None and algorithm.by_density)


def _facts(row: Mapping[str, Any]) -> list[Fact]:
    n, n_far = int(row["n_images"]), int(row["n_far"])
    far = Fact(
        percent(row["share_far"]),
        "of the new images lie far from every cluster",
        f"{n_far:,} of {n:,}; of the images that the model was fitted on it is {percent(row['usual_far'])}. Such "
        "photos look like nothing that the model has seen: look at them before you use their labels.",
        note="Noise, or farther from the centre than 99 % of the fitted images.",
    )
    if not _tells_far(row):
        text = f"{capital(algorithm_noun(row['algorithm']))} does not tell which images are far: look at other models."
        far = Fact("–", far.label, text)
    shifted = Fact(
        number(row["psi"], 2),
        "shift between the clusters",
        "0: the new images fall into the clusters in the same shares as before. Above 0.25: other clusters are "
        "frequent now, so shares and counts of the fitted images no longer hold for the new ones.",
        note=f"Population stability index; so many images stay below {number(row['psi_by_chance'], 2)} by chance.",
    )
    value, label = ("Yes,", "a new fit is due") if row["refit_due"] else ("No", "new fit is due")
    text = (
        f"Since {row['why']}. Until then the new images keep the labels of the old clusters."
        if row["refit_due"]
        else "The labels of the new images are as good as those of the others."
    )
    return [far, shifted, Fact(value, label, text)]


def _measures(row: Mapping[str, Any]) -> dict[str, str]:
    return {
        "n": f"{int(row['n_images']):,}",
        "far": share(row["share_far"] if _tells_far(row) else None),
        "usual": share(row["usual_far"] if _tells_far(row) else None),
        "psi": number(row["psi"], 2),
        "due": "due" if row["refit_due"] else "no",
    }


def _cells(row: Mapping[str, Any]) -> dict[str, str]:
    why = row["why"]
    return {
        "model": headline(row),
        "model_id": row["model_id"],
        **_measures(row),
        "why": "" if is_missing(why) else why,
    }
