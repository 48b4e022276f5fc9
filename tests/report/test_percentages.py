"""Percentages: one text for one share, wherever it stands."""

from __future__ import annotations

import pytest

from motorpool.interpret.evidence import Evidence
from motorpool.interpret.wording import describe
from motorpool.percentages import percent
from motorpool.report.wording import share


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 %"), (0.00004, "under 0.01 %"), (0.0004, "0.04 %"), (0.00994, "0.99 %"), (0.00996, "1.0 %"),
        (0.031, "3.1 %"), (0.0994, "9.9 %"), (0.0996, "10 %"), (0.27, "27 %"), (0.99, "99 %"), (0.996, "over 99 %"),
        (0.99999, "over 99 %"), (1, "100 %"),
    ],
)  # fmt: skip
def test_two_digits_and_nothing_becomes_all_or_none(value: float, text: str) -> None:
    assert percent(value) == text


@pytest.mark.parametrize("value", [0.00004, 0.004, 0.031, 0.27, 0.996])
def test_a_card_of_the_report_and_its_description_give_one_share_alike(value: float) -> None:
    e = Evidence("m", 0, 200, value)
    assert f"It holds 200 images ({share(value)})." in describe(e, {0: e}, {})


@pytest.mark.parametrize("value", [None, float("nan")])
def test_no_share_is_a_dash_in_the_report(value: float | None) -> None:
    assert share(value) == "–"
