"""The verdict: which model, why, and how sure, each sentence from numbers of the lake."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from motorpool.config.run import CONSENSUS
from motorpool.kernels.scores import Score
from motorpool.kernels.scores import ranked as ranked_scores
from motorpool.report.wording import algorithm_noun, is_missing, number

#: Two models whose mean ranks (0 is best, 1 worst) are nearer than this are called a close call.
CLOSE = 0.05


@dataclass(frozen=True)
class Fact:
    """One piece of evidence: the number and what it says, side by side, and a command that follows from it."""

    value: str
    label: str
    text: str
    command: str = ""


@dataclass(frozen=True)
class Verdict:
    model_id: str
    headline: str
    why: tuple[str, ...]
    facts: tuple[Fact, ...]


def verdict(models: pd.DataFrame, agreement: pd.DataFrame) -> Verdict | None:
    """The ranking's first model, what put it there and what speaks for and against it; None where none is ranked.

    ``models`` and ``agreement`` as `queries.models` and `queries.agreement` give them.
    """
    ranked = models[models["rank"].notna()].sort_values("rank")
    if ranked.empty:
        return None
    best = ranked.iloc[0]
    facts = (_agreement_fact(best), _gap_fact(best, ranked), _stability_fact(best, agreement))
    return Verdict(str(best["model_id"]), headline(best), tuple(_why(best, ranked)), facts)


def headline(model: Any) -> str:
    """A model in words: ``KMeans with 6 clusters on vdc_color-pca50``."""
    where = "the feature sets' best models" if model["features"] == CONSENSUS else model["features"]
    return f"{algorithm_noun(model['algorithm'])} with {int(model['n_clusters'])} clusters on {where}"


def _why(best: pd.Series, ranked: pd.DataFrame) -> list[str]:
    mean = number(best["score"])
    lines = [f"It has the best mean rank, {mean} (0 is best, 1 worst), of {len(ranked):,} ranked models."]
    peers = ranked[ranked["features"] == best["features"]]
    for score in ranked_scores():
        if not is_missing(best[score.name]):
            lines.append(_comparable_place(best, ranked, score) if score.comparable else _place(best, peers, score))
    return lines


def _place(best: pd.Series, peers: pd.DataFrame, score: Score) -> str:
    return (
        f"By {score.title} it is {_number_of(best, peers, score)} of the {peers[score.name].notna().sum():,} "
        f"models on {best['features']} (this score does not compare between feature sets)."
    )


def _comparable_place(best: pd.Series, ranked: pd.DataFrame, score: Score) -> str:
    # Clusters of what differs within vehicles are views, which scores that are measured on vehicles say nothing about.
    of_views = score.measured == "vehicles" and "vehicle_part" in ranked
    asked = ranked[ranked["vehicle_part"] != "within"] if of_views else ranked
    measured = asked[score.name].notna().sum()
    return f"By {score.title} it is {_number_of(best, asked, score)} of all {measured:,} models that it ranks."


def _number_of(model: pd.Series, peers: pd.DataFrame, score: Score) -> str:
    column, own = peers[score.name], model[score.name]
    better = column > own if score.better == "higher" else column < own
    return f"number {int(better.sum()) + 1:,}"


def _agreement_fact(best: pd.Series) -> Fact:
    label, value = "vehicle agreement", best["vehicle_agreement"]
    if is_missing(value):
        text = (
            "Not measured for this model: the paths name no vehicles with several photos, or the clusters are made "
            "from whole vehicles and would agree by construction."
        )
        return Fact("–", label, text)
    on: Any = best.get("agreement_vehicles")
    basis = "" if is_missing(on) else f" It was measured on {int(on):,} vehicles with two or more photos."
    text = f"Whether two photos of one vehicle share a cluster: 0 is chance, 1 always.{basis}"
    return Fact(number(value), label, text)


def _gap_fact(best: pd.Series, ranked: pd.DataFrame) -> Fact:
    label = "gap to the next model"
    if len(ranked) < 2:
        return Fact("–", label, "No other model is ranked, so there is nothing to compare with.")
    second = ranked.iloc[1]
    gap = float(second["score"]) - float(best["score"])
    reading = "a close call" if gap < CLOSE else "a clear lead"
    text = f"In mean rank, {reading} (below {CLOSE} is close). Next is {headline(second)}."
    mine, other = best["vehicle_agreement"], second["vehicle_agreement"]
    if not is_missing(mine) and not is_missing(other):
        side = "higher" if other > mine else "lower" if other < mine else "the same"
        text += f" Its vehicle agreement is {side}: {number(other)}."
    return Fact(number(gap), label, text)


def _stability_fact(best: pd.Series, agreement: pd.DataFrame) -> Fact:
    label = "agreement with other descriptors"
    a = agreement[agreement["model_a"] == best["model_id"]][["features_b", "ari"]]
    b = agreement[agreement["model_b"] == best["model_id"]][["features_a", "ari"]]
    pairs = pd.concat([a.set_axis(["features", "ari"], axis=1), b.set_axis(["features", "ari"], axis=1)])
    pairs = pairs[(pairs["features"] != best["features"]) & pairs["ari"].notna()]
    if pairs.empty:
        text = (
            "Not known: the lake holds no agreement of this model with others. Add a section `consensus` to the config "
            "and run `motorpool consensus`."
        )
        return Fact("–", label, text)
    pairs = pairs.sort_values(["ari", "features"])
    low, high = pairs.iloc[0], pairs.iloc[-1]
    text = (
        f"Median adjusted Rand index with the best models of {len(pairs)} other feature sets: 0 is chance, 1 the same "
        f"clusters. From {number(low['ari'], 2)} ({low['features']}) to {number(high['ari'], 2)} ({high['features']})."
    )
    return Fact(number(pairs["ari"].median(), 2), label, text)
