"""The sentence on the evidence that leads the consensus of the outlier methods."""

from __future__ import annotations

from motorpool.outliers.consensus import WEIGHTS, weights_text
from motorpool.report.sections.photo_section import _evidence


def test_the_sentence_names_what_leads_and_what_else_counts() -> None:
    weights = {("a", "lof"): 0.41, ("b", "lof"): 0.2, ("a", "isolation_forest"): 0.0, ("a", "odd_one_out"): 0.9}
    params = {"share": "0.02", "leading": "odd_one_out", WEIGHTS: weights_text(weights)}
    assert _evidence(params) == (
        "The vehicles lead (odd one out of its vehicle): every method counts as far as it agrees with them "
        "(largest weights of the others: local outlier factor 0.41, isolation forest 0.00). "
    )
    alone = params | {WEIGHTS: weights_text({("a", "odd_one_out"): 1.0})}
    assert _evidence(alone).endswith("every method counts as far as it agrees with them. ")


def test_where_all_methods_count_equally_nothing_leads() -> None:
    assert _evidence({"share": "0.02", "rankings": "x"}) == ""
    # Too few outliers of known vehicles to learn weights by.
    assert _evidence({"share": "0.02", "rankings": "x", "leading": "odd_one_out"}) == ""
