"""What a run is: one YAML file, validated before Spark starts, with errors that name the key."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from motorpool.errors import ConfigError
from motorpool.features.spec import (
    FIT_SHARE,
    PROJECTIONS,
    FeatureSet,
    Part,
    Step,
    check_vehicle_steps,
    default_name,
    parse_step,
)
from motorpool.grids import ALGORITHMS, Counts, Grid, Name, Section, check_name
from motorpool.texts import as_number, decode, expand_home

OutlierMethod = Literal[
    "isolation_forest", "knn_distance", "lof", "pca_error", "dbscan_noise", "glosh", "mixture_density", "odd_one_out",
    "stray_groups",
]  # fmt: skip
#: Methods that compare a photo with the others of its vehicle.
VEHICLE_METHODS = ("odd_one_out", "stray_groups")
ProjectionMethod = Literal["pca", "umap", "tsne"]
#: Stands for feature set and method where ``outliers`` holds what all of them agree on.
CONSENSUS = "consensus"
DEFAULT_VEHICLE_PATTERN = r"^(?:.*/)?veriwild/[^/]+/([^/]+)/[^/]+$"


def has_scheme(path: str) -> bool:
    """Whether a path begins with a scheme such as ``s3a:`` or ``file:``; a single letter is a drive."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", path) is not None


def local_folder(path: str) -> Path | None:
    """The local or mounted folder that a path names, with ``file:`` before it or not; None for other schemes."""
    plain = re.sub(r"^file:(//)?", "", path)
    return None if has_scheme(plain) else Path(plain)


def _parse_steps(value: Any) -> Any:
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{value!r}: expected a list of steps such as [{{pca: 100}}, standard]")
    return tuple(parse_step(item) for item in value)


Steps = Annotated[tuple[Step, ...], BeforeValidator(_parse_steps)]
#: Every file and folder that a config names: `~` stands for the home folder.
Location = Annotated[str, AfterValidator(expand_home)]


def _count_or_all(value: Any) -> Any:
    value = as_number(value)
    if value != "all" and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
        raise ValueError(f"{value!r}: expected how many, 0 or more, or 'all'")
    return value


class CaseConfig(Section):
    """Where the images and descriptors lie: a case folder, or its parts one by one."""

    path: Location | None = None
    descriptors: dict[Name, Location] | None = None
    images_paths: Location | None = None
    images_root: Location | None = None
    attributes: Location | None = None
    #: Regular expression on the forward-slash path whose first group is the vehicle; null: no vehicles.
    vehicle_pattern: str | None = DEFAULT_VEHICLE_PATTERN
    #: Instead of the pattern: the column of the attributes file that names what photos show (a vehicle, a track, ...).
    vehicle_column: str | None = Field(default=None, min_length=1)
    on_bad_rows: Literal["refuse", "drop"] = "refuse"

    @model_validator(mode="before")
    @classmethod
    def _one_name_of_vehicles(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.get("vehicle_column") is None:
            return data
        if data.get("vehicle_pattern") is not None:
            raise ValueError("give either `vehicle_pattern` or `vehicle_column`: one of them names the vehicles")
        return {**data, "vehicle_pattern": None}

    @model_validator(mode="after")
    def _check(self) -> CaseConfig:
        if self.path is None and not (self.descriptors and self.images_paths):
            raise ValueError("give `path` (a case folder), or both `descriptors` and `images_paths`")
        if self.vehicle_pattern is not None:
            try:
                groups = re.compile(self.vehicle_pattern).groups
            except re.error as exc:
                raise ValueError(f"vehicle_pattern {self.vehicle_pattern!r} is no regular expression: {exc}") from exc
            if groups < 1:
                raise ValueError(f"vehicle_pattern {self.vehicle_pattern!r} needs a group (…) that holds the vehicle")
        return self


class LakeConfig(Section):
    """Where the tables live: under a path, or in a schema of a catalog."""

    path: Location | None = None
    catalog: Name | None = None
    schema_name: Name | None = Field(default=None, alias="schema")
    format: Literal["delta", "parquet"] = "delta"

    @model_validator(mode="after")
    def _check(self) -> LakeConfig:
        if (self.path is None) == (self.schema_name is None):
            raise ValueError("give either `path`, or `schema` (with `catalog` where there are several)")
        if self.catalog is not None and self.schema_name is None:
            raise ValueError(f"catalog {self.catalog!r} needs a `schema` beside it; a `path` stands alone")
        if self.path is not None and not self.path.strip():
            raise ValueError("`path` is empty: name a folder")
        if self.format == "parquet" and has_scheme(self.path or ""):
            raise ValueError(
                f"path {self.path}: Parquet lakes are kept on a local or mounted file system, named without a scheme, "
                "because their writes end in a rename; use `format: delta` on object stores"
            )
        if self.schema_name is not None and self.format == "parquet":
            raise ValueError("`format: parquet` works under `path` only: tables in a catalog are Delta")
        return self


class PartConfig(Section):
    descriptor: Name
    steps: Steps = ()
    weight: float = Field(default=1.0, gt=0)


class FeatureSetConfig(Section):
    """``descriptor`` with ``steps``; or ``join`` (parts with their own steps) and then ``steps``."""

    name: Name | None = None
    descriptor: Name | None = None
    join: Annotated[list[PartConfig], Field(min_length=2)] | None = None
    steps: Steps = ()

    @model_validator(mode="after")
    def _check(self) -> FeatureSetConfig:
        if (self.descriptor is None) == (self.join is None):
            raise ValueError("give either `descriptor` or `join`")
        if self.join and len({p.descriptor for p in self.join}) < len(self.join):
            raise ValueError("`join` names a descriptor twice")
        check_vehicle_steps(tuple(Part(p.descriptor, p.steps) for p in self.join or []), self.steps)
        try:
            self.to_feature_set()
        except ValueError as exc:
            raise ValueError(f"its default name does not do, give it a `name`: {exc}") from exc
        return self

    def to_feature_set(self) -> FeatureSet:
        if self.join is not None:
            parts = tuple(Part(p.descriptor, p.steps, p.weight) for p in self.join)
        else:
            parts = (Part(str(self.descriptor)),)
        name = self.name or default_name(parts, self.steps)
        return FeatureSet(check_name(name), parts, self.steps)


class VehiclesConfig(Section):
    """How the steps of feature sets whose names begin with `vehicle_` see vehicles."""

    #: The share of the vehicles, chosen by hash, that steps are fitted on; agreement is then measured on the others.
    fit_share: float = Field(default=FIT_SHARE, gt=0, lt=1)
    #: The table `vehicles` has the labels in so many of the best models of each feature set; 0 for no such table.
    models_per_features: Annotated[int | Literal["all"], BeforeValidator(_count_or_all)] = 3


class ClusterConfig(Section):
    models: list[Grid] = Field(default_factory=list)
    #: A model is degenerate when its smallest cluster holds less than this share of the images. Density-based
    #: models have crumbs by nature: theirs is the second largest cluster.
    min_cluster_share: float = Field(default=0.001, ge=0, lt=0.5)
    #: A model that leaves more than this share of the images as noise is degenerate.
    max_noise_share: float = Field(default=0.5, gt=0, le=1)
    #: A model with more clusters than this is degenerate, and not scored.
    max_clusters: int = Field(default=1000, ge=2, le=10_000)


class ConsensusConfig(Section):
    """Clusterings that the best models of several feature sets agree on."""

    #: The feature sets whose best models take part: by default all but those of what differs within vehicles.
    features: list[Name] | None = None
    #: Models of each feature set, the first of its ranking.
    models_per_features: int = Field(default=1, ge=1, le=100)
    n_clusters: Counts = tuple(range(2, 16))
    linkage: Literal["average", "complete", "single"] = "average"
    #: The most frequent tuples of labels that the tree is made of: 8 bytes for each pair of them on the driver.
    max_tuples: int = Field(default=4096, ge=2, le=16_384)

    @model_validator(mode="after")
    def _check(self) -> ConsensusConfig:
        if max(self.n_clusters) > self.max_tuples:
            raise ValueError(f"n_clusters: {max(self.n_clusters)} is above max_tuples = {self.max_tuples}")
        if self.features is not None and len(set(self.features)) < len(self.features):
            raise ValueError("`features` names a feature set twice")
        return self


class OutlierConfig(Section):
    """Which images fit in nowhere: methods by name, on the named feature sets (all by default)."""

    #: By default all but pca_error, which made the consensus worse on labelled cases, and those that need vehicles.
    methods: list[OutlierMethod] = Field(
        default_factory=lambda: [m for m in get_args(OutlierMethod) if m not in ("pca_error", *VEHICLE_METHODS)],
        min_length=1,
    )
    features: list[Name] | None = None
    #: Neighbours that knn_distance, lof and stray_groups look at. Outliers come in small groups of their own, so few
    #: would do harm.
    k: int = Field(default=50, ge=1, le=1000)
    #: The share of images with the highest scores that a method calls outliers.
    share: float = Field(default=0.02, gt=0, lt=1)

    @model_validator(mode="after")
    def _check(self) -> OutlierConfig:
        if len(set(self.methods)) < len(self.methods):
            raise ValueError("`methods` names a method twice")
        return self


class ProjectionConfig(Section):
    """Maps of all images: methods by name, to two or three dimensions, of the named feature sets (all by default)."""

    methods: list[ProjectionMethod] = Field(default=["pca", "umap"], min_length=1)
    dims: list[Literal[2, 3]] = Field(default=[2], min_length=1)
    features: list[Name] | None = None
    #: Images that umap and tsne lay out: all where there are no more; the others are placed by their neighbours.
    sample: int = Field(default=20_000, ge=100, le=100_000)
    #: Neighbours that umap keeps together, the image itself among them.
    n_neighbors: int = Field(default=15, ge=2, le=200)
    #: Neighbours that an image has in t-SNE, roughly; it looks at three times as many.
    perplexity: float = Field(default=30.0, ge=2, le=200)

    @model_validator(mode="after")
    def _check(self) -> ProjectionConfig:
        for key in ("methods", "dims", "features"):
            values = getattr(self, key) or []
            twice = [v for v in values if values.count(v) > 1]
            if twice:
                raise ValueError(f"`{key}` names {twice[0]!r} twice")
        for key, needed in (("n_neighbors", self.n_neighbors), ("perplexity", math.ceil(3 * self.perplexity))):
            if needed >= self.sample:
                raise ValueError(
                    f"{key} = {getattr(self, key):g} looks at {needed} neighbours, and `sample` is {self.sample}: "
                    f"lower {key}, or raise the sample above {needed}"
                )
        return self

    def check_widths(self, sets: Iterable[FeatureSet]) -> None:
        """ValueError for a feature set whose last projection keeps fewer columns than a map has dimensions."""
        for fs in sets:
            kept = [s.param for s in fs.steps if s.kind in PROJECTIONS and isinstance(s.param, int)]
            if kept and kept[-1] < max(self.dims) and (self.features is None or fs.name in self.features):
                raise ValueError(
                    f"projections.dims: {max(self.dims)} dimensions of {fs.name!r}, which keeps {kept[-1]} column(s): "
                    "lower projections.dims, or leave it out of projections.features"
                )


def _ids_or_count(value: Any) -> Any:
    if isinstance(value, (list, tuple)) and value:
        return tuple(dict.fromkeys(check_name(item) if isinstance(item, str) else _no_id(item) for item in value))
    value = as_number(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 100:
        raise ValueError(f"{value!r}: expected a list of model ids, or how many models, 0 to 100")
    return value


def _no_id(value: Any) -> str:
    raise ValueError(f"{value!r}: expected the id of a model as text: put it in quotes")


class ReportConfig(Section):
    """What the report shows, and how much of it: the folder stays below some 50 MB whatever the number of images."""

    #: Models whose clusters get titles, descriptions and members: their ids, or so many of the best models, one of each
    #: feature set.
    models: Annotated[tuple[str, ...] | int, BeforeValidator(_ids_or_count)] = 12
    #: Images of each kind (exemplar, typical, borderline) that are kept for each cluster.
    members: int = Field(default=12, ge=1, le=100)
    #: Photos of each cluster whose appearance is measured, of all clusters of a model at most 20,000; 0 for none.
    sample: int = Field(default=200, ge=0, le=5_000)
    #: A YAML file of titles and descriptions that people give: model_id: {cluster: {title: ..., description: ...}}.
    titles: Annotated[Location, Field(min_length=1)] | None = None
    #: The folder to write: `report` beside the lake by default.
    out: Annotated[Location, Field(min_length=1)] | None = None
    #: Images on the maps, drawn at random.
    points: int = Field(default=20_000, ge=100, le=50_000)
    #: Images on the maps whose photo can be seen: 1 to 3 KB each.
    thumbnails: int = Field(default=8_000, ge=0, le=20_000)
    #: Clusters with a card, over the best models of all feature sets: up to 60 KB each.
    cards: int = Field(default=100, ge=1, le=1_000)
    #: Outliers of the consensus with their photo; of each other method 12 at most.
    outliers: int = Field(default=48, ge=1, le=500)

    @property
    def named_models(self) -> tuple[str, ...]:
        """The ids of the models that were asked for by name; none where their number was given."""
        return () if isinstance(self.models, int) else self.models


def _spark_setting(key: Any, value: Any) -> tuple[str, Any]:
    """A setting as Spark takes it: its key in full, its value as text (YAML reads `true` and `4` as other types)."""
    name = str(key) if str(key).startswith("spark.") else f"spark.{key}"
    if isinstance(value, bool):
        return name, str(value).lower()
    # Anything else stays as it is, for the validation to refuse.
    return name, str(value) if isinstance(value, (int, float)) else value


class Config(Section):
    case: CaseConfig | None = None
    lake: LakeConfig
    features: list[FeatureSetConfig] = Field(default_factory=list)
    vehicles: VehiclesConfig = VehiclesConfig()
    cluster: ClusterConfig = ClusterConfig()
    consensus: ConsensusConfig | None = None
    outliers: OutlierConfig | None = None
    projections: ProjectionConfig | None = None
    report: ReportConfig | None = None
    #: Where the arithmetic of tasks is done; `auto` takes the GPU where all executors have what it needs. No machine
    #: with a GPU has run the tests yet, so nobody gets it without asking.
    accelerator: Literal["auto", "cpu", "gpu"] = "cpu"
    seed: int = Field(default=42, ge=0, lt=2**31)
    spark: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _spark_values_as_text(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("spark"), dict):
            return {**data, "spark": dict(_spark_setting(k, v) for k, v in data["spark"].items())}
        return data

    @model_validator(mode="after")
    def _check(self) -> Config:
        names = [fs.name for fs in self.feature_sets]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ValueError(f"features: the name {twice[0]!r} is used twice, give each feature set its own")
        if CONSENSUS in names:
            raise ValueError(f"features: the name {CONSENSUS!r} is taken by what all agree on, choose another")
        asked: dict[str, list[str] | None] = {
            f"cluster.models[{i}]": grid.features for i, grid in enumerate(self.cluster.models)
        }
        asked["consensus"] = self.consensus.features if self.consensus else None
        asked["outliers"] = self.outliers.features if self.outliers else None
        asked["projections"] = self.projections.features if self.projections else None
        for key, wanted in asked.items():
            unknown = [n for n in wanted or [] if n not in names]
            if unknown:
                raise ValueError(
                    f"{key}.features: {unknown[0]!r} is no feature set of this config: {', '.join(names) or 'none'}"
                )
        if self.projections is not None:
            self.projections.check_widths(self.feature_sets)
        self._check_vehicle_methods()
        if self.consensus is not None:
            sets = self.consensus.features if self.consensus.features is not None else self.consensus_features
            if len(sets) * self.consensus.models_per_features < 2:
                raise ValueError(
                    f"consensus: {len(sets)} feature sets with models_per_features = "
                    f"{self.consensus.models_per_features} are less than the two models that a consensus takes: "
                    "name more feature sets, or raise consensus.models_per_features"
                )
        return self

    def _check_vehicle_methods(self) -> None:
        """ValueError for outlier methods that compare the photos of a vehicle, in a case that names no vehicles."""
        asked = [m for m in (self.outliers.methods if self.outliers else []) if m in VEHICLE_METHODS]
        if asked and self.case and self.case.vehicle_pattern is None and self.case.vehicle_column is None:
            raise ValueError(
                f"outliers.methods: {asked[0]} needs to know which photos show the same vehicle: give "
                "case.vehicle_pattern or case.vehicle_column, or leave the method out"
            )

    @property
    def feature_sets(self) -> list[FeatureSet]:
        return [replace(item.to_feature_set(), fit_share=self.vehicles.fit_share) for item in self.features]

    @property
    def consensus_features(self) -> list[str]:
        """The feature sets of a consensus that names none: all but those of what differs within vehicles."""
        return [features.name for features in self.feature_sets if features.vehicle_part != "within"]

    def require_case(self) -> CaseConfig:
        if self.case is None:
            raise ConfigError("case: is missing: name the case folder, e.g. --set case.path=DIR")
        return self.case


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Read, override (``key.sub=value``, value in YAML) and validate; ConfigError lists every problem."""
    try:
        text = decode(Path(expand_home(str(path))).read_bytes())
    except OSError as exc:
        raise ConfigError(f"{path}: cannot read the config: {exc.strerror or exc}") from exc
    except ValueError as exc:
        raise ConfigError(f"{path}: cannot read the config: {exc}") from exc
    data = _yaml(text, f"{path}: is")
    data = {} if data is None else data
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected keys such as `case:` and `lake:`, found {type(data).__name__}")
    for override in overrides:
        _apply_override(data, override)
    return parse_config(data, str(path))


class _Loader(yaml.SafeLoader):
    """YAML as it is read everywhere, but for a key given twice, of which all but the last would be lost in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        # Keys of `<<` are merged in below, and give way to those that are written out.
        keys = [key.value for key, _ in node.value if isinstance(key.value, str) and key.value != "<<"]
        twice = next((k for i, k in enumerate(keys) if k in keys[:i]), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"the key {twice!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _yaml(text: str, subject: str) -> Any:
    try:
        # S506: a SafeLoader makes no objects.
        return yaml.load(text, _Loader)  # noqa: S506
    # ValueError: dates that no calendar has, and numbers of thousands of digits.
    except (yaml.YAMLError, ValueError) as exc:
        raise ConfigError(f"{subject} no valid YAML: {exc}") from exc
    except RecursionError as exc:
        raise ConfigError(f"{subject} no config: its lists or keys lie too deep in each other") from exc


def parse_config(data: dict[str, Any], source: str = "config") -> Config:
    """Validate a config given as nested dicts; ConfigError lists every problem at once."""
    try:
        return Config.model_validate(data)
    except ValidationError as exc:
        lines = [f"{source}: {_word(error)}" for error in exc.errors()]
        raise ConfigError("\n".join(dict.fromkeys(lines))) from exc


def _word(error: Any) -> str:
    """One finding of pydantic as ``key.sub[0]: what is wrong``."""
    key = ""
    for at, item in enumerate(error["loc"]):
        if item in ALGORITHMS and isinstance(error["loc"][at - 1], int):
            # Which kind of grid it is, is no key of the file.
            continue
        key += f"[{item}]" if isinstance(item, int) else f".{item}" if key else str(item)
    if error["type"] == "extra_forbidden":
        return f"{key}: unknown key"
    if error["type"].startswith("union_tag"):
        given = error["input"].get("algorithm") if isinstance(error["input"], dict) else error["input"]
        return f"{key}.algorithm: {given!r}: expected one of {', '.join(ALGORITHMS)}"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] in ("value_error", "missing"):
        return f"{key}: {message}" if key else message
    return f"{key}: {_short(error['input'])}: {message}" if key else message


def _short(value: Any) -> str:
    """What was found, without all of what may be long."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:197]}..."


def _apply_override(data: dict[str, Any], override: str) -> None:
    key, sep, raw = override.partition("=")
    if not sep or not key:
        raise ConfigError(f"--set {override}: expected key.sub=value")
    value = _yaml(raw, f"--set {override}: the value is")
    # Spark's own keys hold dots: everything behind `spark.` is one key.
    path = ["spark", key.removeprefix("spark.")] if key.startswith("spark.") else key.split(".")
    node: Any = data
    for depth, name in enumerate(path):
        last = depth == len(path) - 1
        if isinstance(node, list):
            if not name.isdecimal() or int(name) >= len(node):
                where = ".".join(path[:depth])
                raise ConfigError(
                    f"--set {key}: {where} is a list of {len(node)}; expected a position below that, found {name!r}"
                )
            if last:
                node[int(name)] = value
            else:
                node = node[int(name)]
        elif isinstance(node, dict):
            if last:
                node[name] = value
            else:
                if node.get(name) is None:
                    node[name] = {}
                node = node[name]
        else:
            raise ConfigError(f"--set {key}: {'.'.join(path[:depth])} is {node!r} and has no keys")
