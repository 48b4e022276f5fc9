"""The sample case: made photos and descriptors in the form of the real case, with the truth beside them."""

from __future__ import annotations

from motorpool_sample.folder import SampleSummary, make_sample_case

__all__ = ["SampleSummary", "make_sample_case"]
