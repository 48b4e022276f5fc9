"""The verdict: which model, why, and how sure, each sentence from numbers of the lake."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from motorpool.config.run import CONSENSUS
from motorpool.kernels.scores import Score
from motorpool.kernels.scores import ranked as ranked_scores
from motorpool.report.wording import algorithm_noun, capital, is_missing, number

#: Two models whose mean ranks (0 is best, 1 worst) are nearer than this are too close to decide between.
CLOSE = 0.05
#: Conventions: from here on vehicles are nearly always whole, or mostly; clusterings are much the same, or in part.
_WHOLE, _MOSTLY = 0.8, 0.5
_SAME, _PARTLY = 0.6, 0.3


@dataclass(frozen=True)
class Fact:
    """One piece of evidence: the number, what it means for a decision, a command that follows, how it was measured."""

    value: str
    label: str
    text: str
    command: str = ""
    note: str = ""


@dataclass(frozen=True)
class Verdict:
    model_id: str
    headline: str
    why: tuple[str, ...]
    facts: tuple[Fact, ...]


def verdict(models: pd.DataFrame, agreement: pd.DataFrame, nuisance: pd.DataFrame) -> Verdict | None:
    """The ranking's first model, what put it there and what speaks for and against it; None where none is ranked.

    ``models``, ``agreement`` and ``nuisance`` as the functions of `queries` with these names give them.
    """
    ranked = models[models["rank"].notna()].sort_values("rank")
    if ranked.empty:
        return None
    best = ranked.iloc[0]
    facts = [_agreement_fact(best), _gap_fact(best, ranked), _stability_fact(best, agreement)]
    followed = _nuisance_fact(best, nuisance)
    if followed is not None:
        # A warning comes before all that speaks for the model.
        facts.insert(len(facts) if is_missing(best["warning"]) else 0, followed)
    return Verdict(str(best["model_id"]), headline(best), tuple(_why(best, ranked)), tuple(facts))


def headline(model: Any) -> str:
    """A model in words: ``KMeans with 6 clusters on vdc_color-pca50``."""
    where = "the feature sets' best models" if model["features"] == CONSENSUS else model["features"]
    return f"{algorithm_noun(model['algorithm'])} with {int(model['n_clusters'])} clusters on {where}"


def _why(best: pd.Series, ranked: pd.DataFrame) -> list[str]:
    mean = number(best["score"])
    lines = [f"Of {len(ranked):,} ranked models it has the best mean rank: {mean}, where 0 is first by every score."]
    peers = ranked[ranked["features"] == best["features"]]
    for score in ranked_scores():
        if not is_missing(best[score.name]):
            among = _asked(ranked, score) if score.comparable else peers
            lines.append(_alone(best, among, score, "" if score.comparable else f" on {best['features']}"))
    return lines


def _alone(best: pd.Series, among: pd.DataFrame, score: Score, where: str) -> str:
    """What one score by itself would choose."""
    column, own = among[score.name], best[score.name]
    better = int((column > own if score.better == "higher" else column < own).sum())
    n = int(column.notna().sum())
    name = capital(score.title)
    if not better:
        return f"{name} alone would choose it too, among {n:,} models{where}."
    return f"{name} alone would put {better:,} of the {n:,} models{where} before it."


def _asked(ranked: pd.DataFrame, score: Score) -> pd.DataFrame:
    # Clusters of what differs within vehicles are views, which scores that are measured on vehicles say nothing about.
    of_views = score.measured == "vehicles" and "vehicle_part" in ranked
    return ranked[ranked["vehicle_part"] != "within"] if of_views else ranked


def _agreement_fact(best: pd.Series) -> Fact:
    label, value = "vehicle agreement", best["vehicle_agreement"]
    if is_missing(value):
        text = "Not measured here, so nothing says whether photos of one vehicle stay together: look at some vehicles."
        note = (
            "The paths name no vehicles with several photos, or the clusters are made from whole vehicles and would "
            "agree by construction."
        )
        return Fact("–", label, text, note=note)
    if value >= _WHOLE:
        text = "Photos of one vehicle nearly always share a cluster: you can name whole vehicles by their cluster."
    elif value >= _MOSTLY:
        text = (
            "Photos of one vehicle mostly share a cluster: name a vehicle by the cluster of most of its photos, and "
            "look at those that disagree."
        )
    else:
        text = (
            "Photos of one vehicle often lie in different clusters: do not name vehicles by these clusters, which may "
            "show views or light instead."
        )
    on: Any = best.get("agreement_vehicles")
    basis = "" if is_missing(on) else f", on {int(on):,} vehicles with two or more photos"
    return Fact(number(value, 2), label, text, note=f"0 is chance, 1 is always{basis}.")


def _gap_fact(best: pd.Series, ranked: pd.DataFrame) -> Fact:
    label = "lead over the next model"
    if len(ranked) < 2:
        return Fact("–", label, "No other model is ranked, so this one is the only choice.")
    second = ranked.iloc[1]
    gap = float(second["score"]) - float(best["score"])
    rival = headline(second)
    if gap < CLOSE:
        text = f"Too small to decide by: look at the photos of {rival} too, and take the clusters that you can name."
    else:
        text = f"Large enough to start here: the next one, {rival}, is clearly behind by these scores."
    mine, other = best["vehicle_agreement"], second["vehicle_agreement"]
    if not is_missing(mine) and not is_missing(other) and other > mine:
        text += (
            f" Only if photos of one vehicle must share a cluster, take the next one: its vehicle agreement is "
            f"{number(other, 2)}, here it is {number(mine, 2)}."
        )
    return Fact(number(gap), label, text, note=f"In mean rank, from 0 to 1; below {CLOSE} is close.")


def _nuisance_fact(best: pd.Series, nuisance: pd.DataFrame) -> Fact | None:
    """The column that the model follows most, of those that it should not; None where none was measured."""
    own = nuisance[(nuisance["model_id"] == best["model_id"]) & nuisance["nmi"].notna()]
    if own.empty:
        return None
    most = own.sort_values(["nmi", "column_name"], ascending=[False, True]).iloc[0]
    column = most["column_name"]
    if not is_missing(best["warning"]):
        text = (
            f"{capital(best['warning'])}. A cluster that is a {column} is no type: look at its photos before you name "
            f"it, or take the {column} out of the vectors by the step group_center: {{by: {column}}}."
        )
    else:
        text = f"The clusters follow the {column} little, so they show something else."
    note = (
        f"Normalised mutual information on {int(most['n_images']):,} images: 0 has nothing in common, 1 is the same; "
        f"chance alone stays below {number(most['nmi_by_chance'], 2)}."
    )
    return Fact(number(most["nmi"], 2), f"in common with {column}", text, note=note)


def _stability_fact(best: pd.Series, agreement: pd.DataFrame) -> Fact:
    label = "agreement with other descriptors"
    a = agreement[agreement["model_a"] == best["model_id"]][["features_b", "ari"]]
    b = agreement[agreement["model_b"] == best["model_id"]][["features_a", "ari"]]
    pairs = pd.concat([a.set_axis(["features", "ari"], axis=1), b.set_axis(["features", "ari"], axis=1)])
    pairs = pairs[(pairs["features"] != best["features"]) & pairs["ari"].notna()]
    if pairs.empty:
        text = "Not measured, so nothing says whether other descriptors would find the same clusters."
        return Fact("–", label, text, note="A section consensus in the config measures it.")
    pairs = pairs.sort_values(["ari", "features"])
    low, high, middle = pairs.iloc[0], pairs.iloc[-1], float(pairs["ari"].median())
    if middle >= _SAME:
        text = "Other descriptors find much the same clusters: the choice of the descriptor hardly matters here."
    elif middle >= _PARTLY:
        text = "Other descriptors find these clusters in part: look longer at a cluster that only this one has."
    else:
        text = (
            "Other descriptors sort the photos quite otherwise: decide first what you want to tell apart (type, "
            "colour, view), then take the model whose clusters show it."
        )
    note = (
        f"Median adjusted Rand index with the best models of {len(pairs)} other feature sets, 0 is chance and 1 the "
        f"same clusters: from {number(low['ari'], 2)} ({low['features']}) to {number(high['ari'], 2)} "
        f"({high['features']})."
    )
    return Fact(number(middle, 2), label, text, note=note)
