"""The numbers of a figure as a CSV file beside its picture."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from motorpool.report.figures.charts import Chart


def write_chart(chart: Chart, out: Path) -> None:
    """``panel, series, x_is, x, y_is, y, name``: a line for each point; ``name`` is a model's id or a bar's cluster."""
    rows = (
        (panel.title, s.name, panel.x_label, x, panel.y_label, y, s.text[at] if s.text else "")
        for panel in chart.panels
        for s in panel.series
        for at, (x, y) in enumerate(zip(s.x, s.y, strict=True))
    )
    write_rows(out, ("panel", "series", "x_is", "x", "y_is", "y", "name"), rows)


def write_rows(out: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A CSV file in UTF-8; None is an empty field."""
    with out.open("w", newline="", encoding="utf-8") as f:
        writer = csv.writer(f, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
