"""Steps as YAML writes them, and fingerprints that tell feature sets apart."""

from __future__ import annotations

from typing import Any

import pytest

from motorpool.features.spec import FeatureSet, Part, Step, default_name, parse_step
from motorpool.texts import NAME_PATTERN


@pytest.mark.parametrize(
    ("raw", "expected", "text", "slug"),
    [
        ("standard", Step("standard"), "standard", "standard"),
        ("minmax", Step("minmax"), "minmax", "minmax"),
        ("l2", Step("l2"), "l2", "l2"),
        ({"l2": None}, Step("l2"), "l2", "l2"),
        ("clip", Step("clip", (0.001, 0.999)), "clip: [0.001, 0.999]", "clip"),
        ({"clip": None}, Step("clip", (0.001, 0.999)), "clip: [0.001, 0.999]", "clip"),
        ({"clip": [0.01, 0.99]}, Step("clip", (0.01, 0.99)), "clip: [0.01, 0.99]", "clip0.01_0.99"),
        ({"clip": [0, 1]}, Step("clip", (0.0, 1.0)), "clip: [0.0, 1.0]", "clip0_1"),
        ("robust", Step("robust", (0.25, 0.75)), "robust: [0.25, 0.75]", "robust"),
        ({"robust": (0.1, 0.9)}, Step("robust", (0.1, 0.9)), "robust: [0.1, 0.9]", "robust0.1_0.9"),
        ({"pca": 100}, Step("pca", 100), "pca: 100", "pca100"),
        ({"pca": 1}, Step("pca", 1), "pca: 1", "pca1"),
        ({"pca": 0.9}, Step("pca", 0.9), "pca: 0.9", "pca0.9"),
        ({"svd": 20}, Step("svd", 20), "svd: 20", "svd20"),
        ({"svd": 0.5}, Step("svd", 0.5), "svd: 0.5", "svd0.5"),
        (Step("pca", 3), Step("pca", 3), "pca: 3", "pca3"),
    ],
    ids=str,
)
def test_steps_are_read(raw: Any, expected: Step, text: str, slug: str) -> None:
    step = parse_step(raw)
    assert step == expected
    assert type(step.param) is type(expected.param)
    assert str(step) == text
    assert step.slug == slug
    assert NAME_PATTERN.fullmatch(step.slug)


NO_STEP = "is not a step: write a name such as `standard`"
QUANTILES = "expected two quantiles, low < high"
COMPONENTS = "expected a number of components"


@pytest.mark.parametrize(
    ("raw", "found", "expected"),
    [
        (7, "7", NO_STEP),
        (None, "None", NO_STEP),
        ({}, "{}", NO_STEP),
        (["pca", 3], "['pca', 3]", NO_STEP),
        ({"pca": 3, "svd": 3}, "'svd': 3", NO_STEP),
        ("pac", "'pac'", "expected one of clip, l2, standard"),
        ({"pac": 3}, "'pac'", "expected one of clip, l2, standard"),
        ({3: "pca"}, "3", "expected one of clip, l2, standard"),
        ("PCA", "'PCA'", "expected one of clip, l2, standard"),
        ({"standard": 3}, "found 3", "step 'standard' takes no value"),
        ({"minmax": [0, 1]}, "found [0, 1]", "step 'minmax' takes no value"),
        ({"l2": False}, "found False", "step 'l2' takes no value"),
        ({"clip": 0.1}, "clip: 0.1", QUANTILES),
        ({"clip": [0.1]}, "clip: [0.1]", QUANTILES),
        ({"clip": [0.9, 0.1]}, "clip: [0.9, 0.1]", QUANTILES),
        ({"clip": [0.5, 0.5]}, "clip: [0.5, 0.5]", QUANTILES),
        ({"clip": [-0.1, 0.5]}, "clip: [-0.1, 0.5]", QUANTILES),
        ({"clip": [0.1, 1.5]}, "clip: [0.1, 1.5]", QUANTILES),
        ({"clip": [float("nan"), 0.5]}, "nan", QUANTILES),
        ({"robust": ["a", "b"]}, "['a', 'b']", QUANTILES),
        ({"robust": [False, True]}, "[False, True]", QUANTILES),
        ("pca", "pca: None", COMPONENTS),
        ({"pca": None}, "pca: None", COMPONENTS),
        ({"pca": 0}, "pca: 0", COMPONENTS),
        ({"pca": -3}, "pca: -3", COMPONENTS),
        ({"pca": 1.0}, "pca: 1.0", COMPONENTS),
        ({"pca": 0.0}, "pca: 0.0", COMPONENTS),
        ({"pca": 100.0}, "pca: 100.0", COMPONENTS),
        ({"pca": True}, "pca: True", COMPONENTS),
        ({"pca": "ten"}, "pca: 'ten'", COMPONENTS),
        ({"svd": [3]}, "svd: [3]", COMPONENTS),
        ({"svd": float("nan")}, "svd: nan", COMPONENTS),
    ],
    ids=str,
)
def test_mistakes_are_named_with_the_value_and_what_was_expected(raw: Any, found: str, expected: str) -> None:
    with pytest.raises(ValueError, match=r"step|expected") as caught:
        parse_step(raw)
    assert found in str(caught.value)
    assert expected in str(caught.value)


A, B = Part("a"), Part("b")
STANDARD, PCA = Step("standard"), Step("pca", 5)
# Every two of these differ in exactly the kind of thing that changes the vectors.
DIFFERENT = [
    FeatureSet("x", (A,)),
    FeatureSet("x", (B,)),
    FeatureSet("x", (A, B)),
    FeatureSet("x", (B, A)),
    FeatureSet("x", (A,), (STANDARD,)),
    FeatureSet("x", (Part("a", (STANDARD,)),)),
    FeatureSet("x", (Part("a", weight=2.0),)),
    FeatureSet("x", (Part("a", weight=2.0000001),)),
    FeatureSet("x", (A,), (PCA,)),
    FeatureSet("x", (A,), (Step("pca", 6),)),
    FeatureSet("x", (A,), (Step("svd", 5),)),
    FeatureSet("x", (A,), (Step("pca", 0.9),)),
    FeatureSet("x", (A,), (Step("pca", 0.90000001),)),
    FeatureSet("x", (A,), (STANDARD, PCA)),
    FeatureSet("x", (A,), (PCA, STANDARD)),
    FeatureSet("x", (A,), (Step("clip", (0.1, 0.9)),)),
    FeatureSet("x", (A,), (Step("robust", (0.1, 0.9)),)),
    FeatureSet("x", (A,), (Step("robust", (0.1, 0.8)),)),
    FeatureSet("x", (Part("a", (STANDARD,)), B)),
    FeatureSet("x", (A, Part("b", (STANDARD,)))),
    FeatureSet("x", (A, Part("b", weight=0.5))),
    FeatureSet("x", (A, B), (STANDARD,)),
]


def test_fingerprints_differ_when_anything_differs() -> None:
    assert len({fs.fingerprint for fs in DIFFERENT}) == len(DIFFERENT)
    assert len({fs.definition for fs in DIFFERENT}) == len(DIFFERENT)


def test_fingerprints_do_not_depend_on_the_name_or_on_spelling() -> None:
    left = FeatureSet("x", (A,), (parse_step("robust"),))
    right = FeatureSet("y", (Part("a", (), 1.0),), (parse_step({"robust": [0.25, 0.75]}),))
    assert left.fingerprint == right.fingerprint


def test_default_names_tell_what_is_inside() -> None:
    joined = (Part("vdc_type", (STANDARD, PCA)), Part("osnet"))
    assert default_name(joined, (Step("l2"),)) == "vdc_type-standard-pca5+osnet-l2"
    assert NAME_PATTERN.fullmatch(default_name(joined, (Step("clip", (0.01, 0.99)),)))


def test_descriptions_read_in_order() -> None:
    assert FeatureSet("x", (Part("a", (STANDARD,)),), (PCA,)).describe() == ["standard", "pca: 5"]
    joined = FeatureSet("x", (Part("a", (STANDARD, PCA), 0.5), B), (Step("l2"),))
    assert joined.describe() == ["a: [standard, pca: 5] x 0.5", "b: [] x 1", "l2"]
    assert joined.descriptors == ("a", "b")
