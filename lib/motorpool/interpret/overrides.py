"""Titles that people give: a YAML file of model, cluster and title, which stand over the made ones.

vdc_color-pca50 k=6:              # the model with 6 clusters on a feature set
  0: White vans
  3: {title: Night, description: Taken after dark.}
vdc_type-pca50 gaussian_mixture k=6:   # with the algorithm, where several have as many clusters
  1: Buses
4aa83210844504a4:                 # or a model_id
  2: Trucks
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from motorpool.case import files
from motorpool.errors import CaseError, ConfigError
from motorpool.texts import decode

#: Characters of a title and of a description.
MAX_TITLE, MAX_DESCRIPTION = 200, 4000
_KEYS = {"title": MAX_TITLE, "description": MAX_DESCRIPTION}
#: A model by its feature set, where need be its algorithm, and its number of clusters.
_BY_NAME = re.compile(r"(\S+)\s+(?:(\S+)\s+)?k\s*=\s*(\d{1,9})")


@dataclass(frozen=True)
class Override:
    """What a person calls a cluster; None leaves what the evidence says."""

    title: str | None = None
    description: str | None = None

    def to_text(self) -> str | None:
        """As JSON; None where a person says nothing."""
        said = {name: text for name, text in vars(self).items() if text is not None}
        return json.dumps(said, ensure_ascii=False) if said else None


#: By model and cluster. A model is named as in the file until `resolve_overrides`, then by its id.
Overrides = dict[tuple[str, int], Override]


@dataclass(frozen=True)
class Named:
    """A model as files of titles can name it; ``n_clusters`` is that of its rows in ``clusters``."""

    model_id: str
    features: str
    algorithm: str
    n_clusters: int

    @property
    def name(self) -> str:
        return f"{self.features} k={self.n_clusters}"

    @property
    def long_name(self) -> str:
        return f"{self.features} {self.algorithm} k={self.n_clusters}"


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
    shown = _shown(path)
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
        raise ConfigError(f"{shown}: expected models by name or id, found {type(data).__name__}")
    found: Overrides = {}
    problems: list[str] = []
    for model, clusters in data.items():
        if clusters == "":
            continue
        if not isinstance(clusters, dict):
            problems.append(f"{model}: expected clusters by number, found {_kind(clusters)}")
            continue
        for cluster, given in clusters.items():
            texts = {"title": given} if isinstance(given, str) else given
            wrong = _problem(cluster, texts)
            if wrong:
                problems.append(f"{model}.{cluster}: {wrong}")
            else:
                found[model, int(cluster)] = Override(texts.get("title"), texts.get("description"))
    if problems:
        raise ConfigError("\n".join(f"{shown}: {p}" for p in problems))
    return found


def _problem(cluster: str, given: Any) -> str | None:
    if not cluster.isdecimal():
        return "a cluster is a whole number, 0 or more"
    if not isinstance(given, dict) or not given:
        return f"expected a title, or `title`, `description` or both, found {_kind(given)}"
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


def resolve_overrides(
    overrides: Overrides, models: Sequence[Named], path: str, preferred: Collection[str] | None = None
) -> Overrides:
    """The same by model_id. ``models`` are all with clusters in the lake; of several that have a name, those whose ids
    are ``preferred`` count first.

    ConfigError, with every problem, for models and clusters that are not there, for a name that several models have,
    and for a cluster that is named twice.
    """
    ids = {m.model_id: m for m in models}
    found: Overrides = {}
    problems: list[str] = []
    for (key, cluster), override in overrides.items():
        chosen = [ids[key]] if key in ids else _by_name(key, models, preferred)
        if len(chosen) != 1:
            problems.append(_not_one(key, chosen, models))
            continue
        model = chosen[0]
        if cluster >= model.n_clusters:
            problems.append(f"{key}.{cluster}: this model has clusters 0 to {model.n_clusters - 1}")
        elif (model.model_id, cluster) in found:
            problems.append(f"{key}.{cluster}: this cluster of model {model.model_id} has a title above already")
        else:
            found[model.model_id, cluster] = override
    if problems:
        raise ConfigError("\n".join(f"{_shown(path)}: {p}" for p in dict.fromkeys(problems)))
    return found


def _by_name(key: str, models: Sequence[Named], preferred: Collection[str] | None) -> list[Named]:
    named = _BY_NAME.fullmatch(key)
    if named is None:
        return []
    features, algorithm, k = named[1], named[2], int(named[3])
    found = [m for m in models if m.features == features and m.n_clusters == k and algorithm in (None, m.algorithm)]
    first = [m for m in found if preferred is None or m.model_id in preferred]
    return first or found


def _not_one(key: str, chosen: Sequence[Named], models: Sequence[Named]) -> str:
    if not chosen:
        near = sorted({m.name for m in models if m.features == key.split()[0]}) if key.split() else []
        hint = f"; of this feature set it holds {', '.join(near[:12])}" if near else "; see the table `clusters`"
        return f"{key}: the lake holds no clusters of such a model{hint}"
    names = [m.long_name for m in chosen]
    shown = [m.long_name if names.count(m.long_name) == 1 else m.model_id for m in chosen]
    return f"{key}: {len(chosen)} models are called so; name one of them: {', '.join(sorted(shown)[:12])}"


def names_of(models: Sequence[Named]) -> Mapping[str, str]:
    """The shortest name of each model that no other of them has, by id; the id itself where there is none."""
    short, long = ([getattr(m, kind) for m in models] for kind in ("name", "long_name"))
    return {
        m.model_id: m.name if short.count(m.name) == 1 else m.long_name if long.count(m.long_name) == 1 else m.model_id
        for m in models
    }


def _shown(path: str) -> str:
    return f"report.titles {files.redact(path)}"
