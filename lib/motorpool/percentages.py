"""Shares as percentages, the same in sentences, on the report's page and in reasons."""

from __future__ import annotations

#: Below a share the text has so many digits behind the point; the borders are where rounding adds a digit before it.
_DIGITS = ((0.00995, 2), (0.0995, 1))


def percent(share: float) -> str:
    """A share from 0 to 1 with two significant digits: 0.04 %, 3.1 %, 27 %.

    Only 0 is 0 % and only 1 is 100 %: between them the text is at least "under 0.01 %" and at most "over 99 %".
    """
    if 0 < share < 0.0001:
        return "under 0.01 %"
    if 0.99 < share < 1:
        return "over 99 %"
    digits = next((d for below, d in _DIGITS if 0 < share < below), 0)
    return f"{100 * share:.{digits}f} %"
