"""The query behind the view ``leaderboard``: the models that can be ranked, by the places that scores give them."""

from __future__ import annotations

from motorpool.kernels.scores import SCORES, Score, ranked

#: Columns of the view, with the scores between those that measuring gives and those that fitting gives.
_FIRST = ("model_id", "features", "algorithm", "params", "n_clusters", "n_noise")
_OF_VEHICLES = ("agreement_vehicles", "vehicle_part")


def columns() -> list[str]:
    """The columns that the view shows of ``models``."""
    seen = [score for score in SCORES.values() if score.shown != "models"]
    found = [score.name for score in seen if score.measured != "fit"]
    of_fit = [score.name for score in seen if score.measured == "fit"]
    return [*_FIRST, *found, *_OF_VEHICLES, *of_fit, "warning"]


def leaderboard() -> str:
    """Rank aggregation (Borda) in SQL; ``{models}`` stands for the table's quoted name.

    Every ranked score becomes a fractional rank in (0, 1), 0.5 for a lone model, and the ranks are averaged. If a score
    is not defined for a model, the model gets the middle rank for it, 0.5: were it left out, a model that is good by
    its one score would beat those that are good by all of them. A model with no score at all cannot be ranked.

    Scores that depend on a feature set's width and scale are only ever ranked within it; comparable ones are ranked
    over all models. There a consensus takes its place among the others but moves none of them: it is made of the best,
    which must stay the best. Clusters of what differs within vehicles are views: the photos of a vehicle ought to fall
    apart there, so scores measured on vehicles are shown but are no criterion. As nothing else compares feature sets,
    these models are ranked within theirs and come behind all others. Scores are compared by seven digits: two models
    with the same clusters are equally good, though their sums, added in another order, differ in the last digits.
    """
    scores = ranked()
    if not scores:
        raise ValueError("no score is ranked, so there is nothing to rank models by")
    values = ",\n                   ".join(f"{_value(s)} AS value_{s.name}" for s in scores)
    places = ",\n                   ".join(_place(s) for s in scores)
    fractions = ",\n                   ".join(
        f"IF(value_{s.name} IS NULL, NULL, (above_{s.name} + 0.5D) / n_{s.name}) AS by_{s.name}" for s in scores
    )
    known = ", ".join(f"by_{s.name}" for s in scores)
    total = " + ".join(f"coalesce(by_{s.name}, 0.5D)" for s in scores)
    # S608: names of columns that `Score` has checked.
    return f"""
        WITH ok AS (
            SELECT *, features <> 'consensus' AS ordinary, coalesce(vehicle_part, 'whole') = 'within' AS of_views,
                   {values}
            FROM {{models}} WHERE status = 'ok'
        ), placed AS (
            SELECT *,
                   {places}
            FROM ok
        ), criteria AS (
            SELECT *,
                   {fractions}
            FROM placed
        ), merged AS (
            SELECT *, round(({total}) / {len(scores)}, 12) AS score
            FROM criteria
            WHERE coalesce({known}) IS NOT NULL
        )
        SELECT CAST(row_number() OVER (ORDER BY of_views, score, features, n_clusters, model_id) AS INT) AS rank,
               CAST(row_number() OVER (
                   PARTITION BY features ORDER BY score, n_clusters, model_id
               ) AS INT) AS rank_in_features,
               CAST(round(score, 4) AS DOUBLE) AS score, {", ".join(columns())}
        FROM merged
        ORDER BY rank
    """  # noqa: S608


def _value(score: Score) -> str:
    """The score where it is a criterion, to the seven digits of a FLOAT."""
    of_vehicles = score.measured == "vehicles"
    value = f"IF(coalesce(vehicle_part, 'whole') = 'within', NULL, {score.name})" if of_vehicles else score.name
    return f"CAST({value} AS FLOAT)"


def _place(score: Score) -> str:
    """How many models are above, and of how many."""
    value, order = (
        f"value_{score.name}",
        f"value_{score.name} {'DESC' if score.better == 'higher' else 'ASC'} NULLS LAST",
    )
    if not score.comparable:
        return (
            f"rank() OVER (PARTITION BY features ORDER BY {order}) - 1 AS above_{score.name}, "
            f"count({value}) OVER (PARTITION BY features) AS n_{score.name}"
        )
    return (
        f"count_if(ordinary) OVER (ORDER BY {order} RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) - "
        f"count_if(ordinary) OVER (PARTITION BY {value}) AS above_{score.name}, "
        f"count_if(ordinary AND {value} IS NOT NULL) OVER () + IF(ordinary, 0, 1) AS n_{score.name}"
    )
