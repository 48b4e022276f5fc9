"""Which scores the report shows, and how the ranking is made of them, in words."""

from __future__ import annotations

from motorpool.kernels.scores import Score, ranked, shown
from motorpool.texts import listed


def table_scores() -> list[Score]:
    """The scores of the table of models and of the charts: first those that compare between feature sets."""
    return sorted(shown(), key=lambda score: not score.comparable)


def ranking_words() -> str:
    """How a mean rank comes about, as one sentence."""
    parts = [
        _places([s.title for s in ranked() if not s.comparable], "among the models of one feature set"),
        _places([s.title for s in ranked() if s.comparable], "among all"),
    ]
    return f"The mean rank averages the places {', and '.join(part for part in parts if part)}."


def _places(titles: list[str], among: str) -> str:
    return f"by {listed(titles)}, {'each ' if len(titles) > 1 else ''}{among}" if titles else ""
