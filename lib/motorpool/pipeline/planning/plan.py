"""What a run would do and how much it would write, told from the config, the case and the lake before Spark starts."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from motorpool.cluster.models import ModelSpec
from motorpool.config.run import CONSENSUS, Config, local_folder
from motorpool.features.spec import FeatureSet
from motorpool.lake.arrow_types import arrow_columns
from motorpool.lake.schemas import TABLES
from motorpool.pipeline.planning.checks import Findings
from motorpool.pipeline.planning.held import Held
from motorpool.pipeline.planning.widths import Width
from motorpool.pipeline.study import specs_of
from motorpool.texts import counted

_FLOAT = 4


@dataclass(frozen=True)
class DescriptorPlan:
    """A descriptor of the case: its shape, the type of its numbers in the file, and its bytes as float32.

    ``in_lake`` is None where only Spark can tell; so in the classes below.
    """

    name: str
    rows: int
    columns: int
    dtype: str
    in_lake: bool | None

    @property
    def n_bytes(self) -> int:
        return self.rows * self.columns * _FLOAT


@dataclass(frozen=True)
class SetPlan:
    """A feature set: its width, None where a descriptor's shape is not known, and how many models it gets."""

    name: str
    width: Width | None
    n_models: int
    in_lake: bool | None


@dataclass(frozen=True)
class AlgorithmPlan:
    """How many models of an algorithm the config asks for, and how many of them the lake holds."""

    name: str
    n_models: int
    n_in_lake: int | None


@dataclass(frozen=True)
class SizePlan:
    """Bytes that a table takes before compression when the run is done, and those of them that are yet to be written.

    ``exact`` is False where a width is only known to be at most so much.
    """

    table: str
    n_bytes: int
    n_missing: int
    exact: bool = True


@dataclass(frozen=True)
class Plan:
    """What `motorpool check` tells. ``stages`` says of every stage what the config asks of it, None for nothing.

    ``free`` are the free bytes where the lake lies or will lie, None for a lake that is in no folder of this machine.
    """

    n_images: int
    photos: str | None
    stages: Mapping[str, str | None]
    descriptors: list[DescriptorPlan]
    sets: list[SetPlan]
    algorithms: list[AlgorithmPlan]
    sizes: list[SizePlan]
    free: int | None


def plan_of(config: Config, found: Findings) -> Plan:
    """The plan of a whole run. Memory: a few hundred bytes a model."""
    specs = {spec.name: models_of(config, spec) for spec in config.feature_sets}
    held = found.held
    n_images = found.opened.n_rows if found.opened else 0
    descriptors = _descriptors(found)
    known = held.definitions if held else None
    sets = [SetPlan(name, found.widths.get(name), len(models), _among(name, known)) for name, models in specs.items()]
    n_consensus = len(config.consensus.n_clusters) if config.consensus else 0
    algorithms = _algorithms((m for models in specs.values() for m in models), held)
    if n_consensus:
        # Which models it is made of, and so its id, follows from the ranking.
        algorithms.append(AlgorithmPlan(CONSENSUS, n_consensus, None))
    return Plan(
        n_images,
        found.photos,
        _stages(config, sum(a.n_models for a in algorithms) - n_consensus),
        descriptors,
        sets,
        algorithms,
        _sizes(n_images, descriptors, sets, algorithms),
        _free(config),
    )


def models_of(config: Config, spec: FeatureSet) -> list[ModelSpec]:
    """The models of a feature set, each once though several grids ask for it."""
    found: dict[str, ModelSpec] = {}
    for grid in config.cluster.models:
        if grid.features is None or spec.name in grid.features:
            found |= {model.model_id: model for model in specs_of(spec, grid, config.seed)}
    return list(found.values())


def _descriptors(found: Findings) -> list[DescriptorPlan]:
    if found.opened is None:
        return []
    there = found.held.descriptors if found.held else None
    # A table of vectors may have rows of other images, which are left out.
    rows = found.opened.n_rows
    return [
        DescriptorPlan(name, rows, d.shape[1], str(d.dtype), _among(name, there))
        for name, d in found.opened.descriptors.items()
    ]


def _among(name: str, there: Collection[str] | None) -> bool | None:
    return None if there is None else name in there


def _algorithms(models: Iterable[ModelSpec], held: Held | None) -> list[AlgorithmPlan]:
    asked, there = Counter[str](), Counter[str]()
    for model in models:
        asked[model.algorithm] += 1
        there[model.algorithm] += held is not None and model.model_id in held.models
    return [AlgorithmPlan(name, n, there[name] if held else None) for name, n in asked.items()]


def _stages(config: Config, n_models: int) -> dict[str, str | None]:
    attributes = config.labels.attributes if config.labels else {}
    each = config.vehicles.models_per_features
    outliers, maps = config.outliers, config.projections
    return {
        "ingest": "the case",
        "features": counted(len(config.features), "feature set"),
        "cluster": counted(n_models, "model"),
        "consensus": counted(len(config.consensus.n_clusters), "model") if config.consensus else None,
        "nuisance": ", ".join(config.nuisance.columns) if config.nuisance else None,
        "vehicles": f"votes in {'all' if each == 'all' else f'the best {each}'} models of each set" if each else None,
        "outliers": f"{', '.join(outliers.methods)} on {_sets(config, outliers.features)}" if outliers else None,
        "project": (
            f"{', '.join(f'{m}{d}' for m in maps.methods for d in maps.dims)} of {_sets(config, maps.features)}"
            if maps
            else None
        ),
        "duplicates": _duplicates(config),
        "neighbours": (
            f"the {config.neighbours.k} nearest in {_sets(config, config.neighbours.features)}"
            if config.neighbours
            else None
        ),
        "quality": "every photo" if config.photo_quality else None,
        "label": ", ".join(attributes) or None,
        "interpret": "titles of the report's models" if config.report else None,
        "report": config.report.out or "beside the lake" if config.report else None,
    }


def _duplicates(config: Config) -> str | None:
    """What is compared; whether there are photos does not show in the config."""
    asked = config.duplicates
    if asked is None:
        return None
    unmerged = [fs.name for fs in config.feature_sets if not fs.merges_vehicles]
    sets = counted(len(unmerged if asked.features is None else asked.features), "feature set")
    return f"{sets}{' and the photo files' if asked.photos else ''}, similarity {asked.similarity:g}"


def _sets(config: Config, named: list[str] | None) -> str:
    return counted(len(config.features if named is None else named), "feature set")


def _sizes(
    n_images: int, descriptors: list[DescriptorPlan], sets: list[SetPlan], algorithms: list[AlgorithmPlan]
) -> list[SizePlan]:
    vectors = [(s.width.columns * n_images * _FLOAT, s.in_lake) for s in sets if s.width]
    label = n_images * _label_bytes()
    labels = [(a.n_models * label, (a.n_models - (a.n_in_lake or 0)) * label) for a in algorithms]
    return [
        SizePlan(
            "descriptors",
            sum(d.n_bytes for d in descriptors),
            sum(d.n_bytes for d in descriptors if not d.in_lake),
        ),
        SizePlan(
            "features",
            sum(n for n, _ in vectors),
            sum(n for n, in_lake in vectors if not in_lake),
            exact=all(s.width is not None and s.width.exact for s in sets),
        ),
        # Columns that an algorithm leaves empty take next to nothing.
        SizePlan("labels", sum(n for n, _ in labels), sum(n for _, n in labels), exact=False),
    ]


def _label_bytes() -> int:
    """Bytes of a row of ``labels``, without the id of its model, which is a folder's name."""
    columns = arrow_columns(TABLES["labels"].columns)
    return sum(f.type.bit_width // 8 for f in columns if f.name not in TABLES["labels"].partition_by)


def _free(config: Config) -> int | None:
    folder = local_folder(config.lake.path) if config.lake.path is not None else None
    if folder is None:
        return None
    there = next((p for p in (folder.absolute(), *folder.absolute().parents) if p.exists()), Path("/"))
    return shutil.disk_usage(there).free
