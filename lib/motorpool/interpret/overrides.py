"""Titles that people give: a YAML file of model, cluster, and title or description, which stand over the made ones.

4aa83210844504a4:
  0: {title: White vans, description: Delivery vans of the depot.}
  3: {title: Night}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from motorpool.case import files
from motorpool.errors import CaseError, ConfigError
from motorpool.texts import decode

#: Characters of a title and of a description.
MAX_TITLE, MAX_DESCRIPTION = 200, 4000
_KEYS = {"title": MAX_TITLE, "description": MAX_DESCRIPTION}


@dataclass(frozen=True)
class Override:
    """What a person calls a cluster; None leaves what the evidence says."""

    title: str | None = None
    description: str | None = None


Overrides = dict[tuple[str, int], Override]


class _Loader(yaml.BaseLoader):
    """Every scalar is text: a model's id may look like a number. A key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [str(key.value) for key, _ in node.value]
        twice = sorted({k for k in keys if keys.count(k) > 1})
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"the key {twice[0]!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def load_overrides(path: str) -> Overrides:
    """The file's titles by model and cluster; ConfigError, with every problem, where it is not of the form above."""
    shown = f"report.titles {files.redact(path)}"
    try:
        with files.open_file(path) as f:
            # S506: _Loader makes texts, lists and dicts, and no objects.
            text = decode(bytes(f.read(2**22)))
        data = yaml.load(text, _Loader)  # noqa: S506
    except yaml.YAMLError as exc:
        raise ConfigError(f"{shown}: is no valid YAML: {exc}") from exc
    except (CaseError, ValueError, OSError) as exc:
        raise ConfigError(f"{shown}: cannot be read: {exc}") from exc
    except RecursionError as exc:
        raise ConfigError(f"{shown}: cannot be read: its keys lie too deep in each other") from exc
    if data in (None, ""):
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{shown}: expected models by id, found {type(data).__name__}")
    found: Overrides = {}
    problems: list[str] = []
    for model_id, clusters in data.items():
        if not isinstance(clusters, dict):
            problems.append(f"{model_id}: expected clusters by number, found {_kind(clusters)}")
            continue
        for cluster, given in clusters.items():
            wrong = _problem(cluster, given)
            if wrong:
                problems.append(f"{model_id}.{cluster}: {wrong}")
            else:
                found[model_id, int(cluster)] = Override(given.get("title"), given.get("description"))
    if problems:
        raise ConfigError("\n".join(f"{shown}: {p}" for p in problems))
    return found


def _problem(cluster: str, given: Any) -> str | None:
    if not cluster.isdecimal():
        return "a cluster is a whole number, 0 or more"
    if not isinstance(given, dict) or not given:
        return f"expected `title`, `description` or both, found {_kind(given)}"
    for key, value in given.items():
        if key not in _KEYS:
            return f"unknown key {key!r}: expected title or description"
        if not isinstance(value, str) or not value.strip():
            return f"{key}: expected a text, found {_kind(value)}"
        if len(value) > _KEYS[key]:
            return f"{key}: has {len(value)} characters, more than {_KEYS[key]}"
        if not all(c.isprintable() or c == "\n" for c in value) or (key == "title" and "\n" in value):
            return f"{key}: {value!r}: holds characters that cannot be shown"
    return None


def _kind(value: Any) -> str:
    """What was found, without writing out what aliases may have made huge."""
    return repr(value[:80]) if isinstance(value, str) else f"a {type(value).__name__} of {len(value)}"


def check_overrides(overrides: Overrides, clusters: Mapping[str, int], path: str) -> None:
    """ConfigError for models and clusters that the lake does not hold; ``clusters`` is their number by model."""
    problems = []
    for model_id, cluster in overrides:
        if model_id not in clusters:
            problems.append(f"{model_id}: the lake holds no clusters of such a model; see the table `clusters`")
        elif cluster >= clusters[model_id]:
            problems.append(f"{model_id}.{cluster}: this model has clusters 0 to {clusters[model_id] - 1}")
    if problems:
        shown = f"report.titles {files.redact(path)}"
        raise ConfigError("\n".join(f"{shown}: {p}" for p in dict.fromkeys(problems)))
