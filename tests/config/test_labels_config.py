"""The section `labels`: attributes with their values, and what is no attribute or no value."""

from __future__ import annotations

from typing import Any

import pytest

from motorpool.config.labels import LabelsConfig
from motorpool.config.load import parse_config
from motorpool.errors import ConfigError

BASE: dict[str, Any] = {"lake": {"path": "x"}, "features": [{"descriptor": "osnet", "steps": [{"pca": 4}]}]}


def labels(section: dict[str, Any]) -> LabelsConfig:
    found = parse_config({**BASE, "labels": section}).labels
    assert found is not None
    return found


def test_an_attribute_says_its_values_whose_it_is_and_how_often_labels_must_be_right() -> None:
    found = labels({"attributes": {"type": {"values": ["sedan", "SUV "], "per": "vehicle", "target": "9e-1"}}})
    kind = found.attributes["type"]
    assert (kind.values, kind.per, kind.target) == (("sedan", "SUV"), "vehicle", 0.9)


def test_an_attribute_without_keys_takes_all_defaults() -> None:
    kind = labels({"attributes": {"view": None}}).attributes["view"]
    assert (kind.values, kind.per, kind.target) == (None, "image", 0.95)


def test_whole_numbers_are_values() -> None:
    assert labels({"attributes": {"doors": {"values": [2, 4, "5"]}}}).attributes["doors"].values == ("2", "4", "5")


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ({"attributes": {"t": {"values": ["a"]}}}, ["labels.attributes.t.values", "at least 2"]),
        ({"attributes": {"t": {"values": ["a", "b", " a"]}}}, ["labels.attributes.t", "'a' twice"]),
        ({"attributes": {"t": {"values": [True, "b"]}}}, ["labels.attributes.t.values", "True", "quotes"]),
        ({"attributes": {"t": {"values": [2.5, "b"]}}}, ["labels.attributes.t.values", "2.5", "quotes"]),
        ({"attributes": {"t": {"values": ["a", " "]}}}, ["labels.attributes.t.values", "empty"]),
        ({"attributes": {"t": {"values": "a, b"}}}, ["labels.attributes.t.values", "list"]),
        ({"attributes": {"t": {"per": "car"}}}, ["labels.attributes.t.per", "'car'", "vehicle"]),
        ({"attributes": {"t": {"target": 1}}}, ["labels.attributes.t.target", "less than 1"]),
        ({"attributes": {"Path": {}}}, ["labels", "'Path'", "'path'", "another name"]),
        ({"attributes": {"t": {}, "t_accepted": {}}}, ["labels", "'t_accepted'", "another name"]),
        ({"attributes": {"a b": {}}}, ["labels.attributes", "'a b'"]),
        ({"attributes": {"t": {"features": ["vdc"]}}}, ["labels.attributes.t.features", "'vdc'", "osnet-pca4"]),
        ({"attributes": {"t": {"features": ["osnet-pca4", "osnet-pca4"]}}}, ["labels.attributes.t", "twice"]),
    ],
)
def test_a_mistake_is_told_by_its_key(section: dict[str, Any], told: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        labels(section)
    assert [word for word in told if word not in str(caught.value)] == []
