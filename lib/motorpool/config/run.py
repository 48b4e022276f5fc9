"""What a run is: one YAML file, validated before Spark starts, with errors that name the key."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, model_validator

from motorpool.cluster.grid import ModelGrid
from motorpool.config.describing import BuiltInConfig, NetworkConfig
from motorpool.config.duplicates import PHOTOS, DuplicatesConfig, NeighboursConfig
from motorpool.config.grids import Grid
from motorpool.config.labels import LabelsConfig
from motorpool.config.nuisance import NuisanceConfig
from motorpool.config.photo_quality import PhotoQualityConfig
from motorpool.errors import ConfigError
from motorpool.features.spec import (
    FIT_SHARE,
    PROJECTIONS,
    FeatureSet,
    Part,
    Step,
    check_order,
    default_name,
    parse_step,
)
from motorpool.maps.registry import MAP_METHODS
from motorpool.outliers.registry import OUTLIER_METHODS
from motorpool.settings import Counts, Engine, Location, Name, NameIn, Section, check_name, modules_of
from motorpool.texts import NAME_PATTERN, as_number

OutlierMethodName = Annotated[str, BeforeValidator(NameIn(OUTLIER_METHODS))]
MapMethodName = Annotated[str, BeforeValidator(NameIn(MAP_METHODS))]
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


def _named(names: Iterable[str]) -> str:
    """Names as code, in a sentence."""
    *others, last = (f"`{name}`" for name in names)
    return f"{', '.join(others)} and {last}" if others else last


def _parse_steps(value: Any) -> Any:
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{value!r}: expected a list of steps such as [{{pca: 100}}, standard]")
    return tuple(parse_step(item) for item in value)


Steps = Annotated[tuple[Step, ...], BeforeValidator(_parse_steps)]


def _count_or_all(value: Any) -> Any:
    value = as_number(value)
    if value != "all" and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
        raise ValueError(f"{value!r}: expected how many, 0 or more, or 'all'")
    return value


def _table_name(value: str) -> str:
    parts = value.split(".")
    if not 1 <= len(parts) <= 3 or not all(NAME_PATTERN.fullmatch(part) for part in parts):
        raise ValueError(f"{value!r}: expected a table of a catalog, as name, schema.name or catalog.schema.name")
    return value


class ColumnConfig(Section):
    """A column of a table, in place of a file of its own."""

    file: Location | None = Field(
        default=None,
        description="Parquet file, folder of Parquet files, or folder of a Delta table. Give either `file` or `table`.",
    )
    table: Annotated[str, AfterValidator(_table_name)] | None = Field(
        default=None, description="Table of a catalog: `name`, `schema.name` or `catalog.schema.name`."
    )
    column: str = Field(min_length=1, description="Name of the column, as it stands in the table.")

    @model_validator(mode="after")
    def _check_place(self) -> ColumnConfig:
        if (self.file is None) == (self.table is None):
            raise ValueError("give either `file` (Parquet or Delta) or `table` (of a catalog)")
        return self


class VectorColumnConfig(ColumnConfig):
    """A column of vectors: one list of numbers in each row."""

    key: str | None = Field(
        default=None,
        min_length=1,
        description="The table's column that says which image a row is of: by its path, or by any other column that "
        "the table of `images_paths` has under the same name, such as an id. Default: the column of the paths.",
    )


#: How pydantic calls the forms below in the place of a mistake; no key that a person wrote.
FORMS = ("<file>", "<column>", "<network>", "<built in>")


def _form(value: Any) -> str:
    if not isinstance(value, (dict, Section)):
        return FORMS[0]
    keys = value if isinstance(value, dict) else type(value).model_fields
    return FORMS[2] if "model" in keys else FORMS[3] if "builtin" in keys else FORMS[1]


_File = Annotated[Location, Tag(FORMS[0])]
#: A file, named by its path, or a column of a table.
FileOrColumn = Annotated[_File | Annotated[ColumnConfig, Tag(FORMS[1])], Discriminator(_form)]
#: A file, a column of a table, or how the vectors are computed from the photos.
DescriptorConfig = Annotated[
    _File
    | Annotated[VectorColumnConfig, Tag(FORMS[1])]
    | Annotated[NetworkConfig, Tag(FORMS[2])]
    | Annotated[BuiltInConfig, Tag(FORMS[3])],
    Discriminator(_form),
]


def _photo_place(value: Any) -> Any:
    """Photos are read by processes that have no Spark, so by the files that they lie in."""
    if isinstance(value, dict) and value.get("table") is not None:
        table = value["table"]
        raise ValueError(
            f"photos of a catalog's table are read from its folder: name that instead of {{table: {table}}}, as text. "
            f"`DESCRIBE TABLE EXTENDED {table}` calls it the location"
        )
    if isinstance(value, dict):
        raise ValueError(f"found {value}, expected the place as text: the column of the photos is told by its type")
    return value


class CaseConfig(Section):
    """Where the images and descriptors lie: a case folder, its parts one by one, or photos alone."""

    path: Location | None = Field(
        default=None, description="The case folder. Its parts are found by name; the keys below name them one by one."
    )
    descriptors: dict[Name, DescriptorConfig] | None = Field(
        default=None,
        description="Descriptor name to array file (.pickle, .joblib, .npy, .npz, .parquet, .safetensors, .pt, .h5), "
        "to a folder of .npy shards, to a column of a table, or to what computes it from the photos: a network or a "
        "built-in method. Default: all files in `descriptors/`; for photos alone the built-in methods.",
    )
    images_paths: FileOrColumn | None = Field(
        default=None,
        description="CSV file with the column `paths`, or a column of a table. Row i belongs to row i of every array. "
        "Default: `images_paths.csv`; for photos alone all photos of `images_root`.",
    )
    images_root: Annotated[Location, BeforeValidator(_photo_place)] | None = Field(
        default=None,
        description="Where the photos lie: a folder, a zip or tar file, a folder of tars, or a table of photos "
        "(Parquet or Delta). For interpretation, report and descriptors that are computed. Default: `raw_data`.",
    )
    attributes: FileOrColumn | None = Field(
        default=None,
        description="CSV file with the column `path` and any further columns, which the table `images` takes over, "
        "VERI-Wild's own `vehicle_info.txt`, or the column of the paths in a table. Default: the table of "
        "`images_paths`, or `attributes.csv`, where there is one.",
    )
    vehicle_pattern: str | None = Field(
        default=DEFAULT_VEHICLE_PATTERN,
        description="Regular expression on the path, written with forward slashes; its first group is the vehicle. "
        "`null`: the paths name no vehicles.",
    )
    vehicle_column: str | None = Field(
        default=None,
        min_length=1,
        description="Instead of `vehicle_pattern`: the column of the attributes file that says which images show the "
        "same thing (a vehicle, a track, a patient).",
    )
    on_bad_rows: Literal["refuse", "drop"] = Field(
        default="refuse",
        description="For rows with NaN or infinity: `refuse` stops the run, `drop` leaves these images out and lists "
        "them in the table `bad_rows`.",
    )

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
        if self.path is None and self.images_root is None and not (self.descriptors and self.images_paths):
            raise ValueError(
                "give `path` (a case folder), `images_root` (photos), or both `descriptors` and `images_paths`"
            )
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

    path: Location | None = Field(default=None, description="Folder of the tables. Give either `path` or `schema`.")
    catalog: Name | None = Field(default=None, description="Catalog that holds `schema`, for instance Unity Catalog's.")
    schema_name: Name | None = Field(
        default=None, alias="schema", description="Schema of the tables, in `catalog` or in the session's own catalog."
    )
    format: Literal["delta", "parquet"] = Field(
        default="delta", description="Format of the tables. `parquet` works under a local or mounted `path` only."
    )

    @model_validator(mode="after")
    def _check(self) -> LakeConfig:
        if (self.path is None) == (self.schema_name is None):
            raise ValueError("give either `path`, or `schema` (with `catalog` where there are several)")
        if self.catalog is not None and self.schema_name is None:
            raise ValueError(f"catalog {self.catalog!r} needs a `schema` beside it; a `path` stands alone")
        if self.format == "parquet" and has_scheme(self.path or ""):
            raise ValueError(
                f"path {self.path}: Parquet lakes are kept on a local or mounted file system, named without a scheme, "
                "because their writes end in a rename; use `format: delta` on object stores"
            )
        if self.schema_name is not None and self.format == "parquet":
            raise ValueError("`format: parquet` works under `path` only: tables in a catalog are Delta")
        return self


class PartConfig(Section):
    """One descriptor of a joined feature set."""

    descriptor: Name = Field(description="Name of the descriptor.")
    steps: Steps = Field(default=(), description="Steps of this descriptor alone, before the join.")
    weight: float = Field(default=1.0, gt=0, description="Factor of its columns beside those of the other parts.")


class FeatureSetConfig(Section):
    """One vector per image: ``descriptor`` through ``steps``; or the parts in ``join``, and then ``steps``."""

    name: Name | None = Field(
        default=None, description="Name of the feature set in all tables. Default: made of descriptors and steps."
    )
    descriptor: Name | None = Field(
        default=None, description="Name of the descriptor. Give either `descriptor` or `join`."
    )
    join: Annotated[list[PartConfig], Field(min_length=2)] | None = Field(
        default=None, description="Several descriptors side by side, each through steps of its own."
    )
    steps: Steps = Field(default=(), description="Steps in the order in which they are applied.")
    engine: Engine = Field(
        default="motorpool",
        description="What fits the steps `pca`: Motorpool's own kernels, or the PCA of Spark's MLlib (`spark-ml`) or, "
        "on GPUs, of `spark-rapids-ml`. These take a number of components, no share of variance.",
    )

    @model_validator(mode="after")
    def _check(self) -> FeatureSetConfig:
        if (self.descriptor is None) == (self.join is None):
            raise ValueError("give either `descriptor` or `join`")
        if self.join and len({p.descriptor for p in self.join}) < len(self.join):
            raise ValueError("`join` names a descriptor twice")
        check_order(tuple(Part(p.descriptor, p.steps) for p in self.join or []), self.steps)
        try:
            self.to_feature_set()
        except ValueError as exc:
            raise ValueError(f"its default name does not do, give it a `name`: {exc}") from exc
        self._check_engine()
        return self

    def _check_engine(self) -> None:
        """ValueError where the engine has nothing to fit, or not what is asked for."""
        if self.engine == "motorpool":
            return
        found = [step for step in self.to_feature_set().every_step if step.kind == "pca"]
        if not found:
            raise ValueError(f"engine: {self.engine} fits the steps `pca`, and there is none: leave `engine` out")
        share = next((step for step in found if not isinstance(step.param, int)), None)
        if share is not None:
            raise ValueError(
                f"steps: {share}: engine {self.engine} takes a number of components such as `pca: 50`, no share of "
                "variance; or leave `engine` out"
            )

    @property
    def gpu_modules(self) -> tuple[str, ...]:
        """Modules that the set's engine imports beside cupy, all of which need a GPU."""
        return modules_of(self.engine)

    def to_feature_set(self) -> FeatureSet:
        if self.join is not None:
            parts = tuple(Part(p.descriptor, p.steps, p.weight) for p in self.join)
        else:
            parts = (Part(str(self.descriptor)),)
        name = self.name or default_name(parts, self.steps)
        return FeatureSet(check_name(name), parts, self.steps, engine=self.engine)


class VehiclesConfig(Section):
    """How steps whose names begin with ``vehicle_`` are fitted, and which models label vehicles."""

    fit_share: float = Field(
        default=FIT_SHARE,
        gt=0,
        lt=1,
        description="Share of the vehicles, chosen by a hash of their names, that `vehicle_` steps are fitted on. "
        "Vehicle agreement is then measured on the other vehicles.",
    )
    models_per_features: Annotated[int | Literal["all"], BeforeValidator(_count_or_all)] = Field(
        default=3,
        description="The table `vehicles` has the labels by this many of the best models of each feature set, or by "
        "`all` of them; 0: no such table.",
    )


class ClusterConfig(Section):
    """Which models are fitted, and which of them are degenerate: kept in the tables, but not ranked."""

    models: list[Grid] = Field(
        default_factory=list, description="Grids of models. Each names its `algorithm`; the keys of each follow below."
    )
    min_cluster_share: float = Field(
        default=0.001,
        ge=0,
        lt=0.5,
        description="A model is degenerate where its smallest cluster holds less than this share of the images. "
        "DBSCAN and HDBSCAN find tiny clusters by nature: for them the second largest cluster counts.",
    )
    max_noise_share: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="A model is degenerate where it leaves more than this share of the images as noise.",
    )
    max_clusters: int = Field(
        default=1000, ge=2, le=10_000, description="A model with more clusters than this is degenerate and not scored."
    )


class ConsensusConfig(Section):
    """Clusterings that the best models of several feature sets agree on."""

    features: list[Name] | None = Field(
        default=None,
        min_length=1,
        description="Feature sets whose best models take part. Default: all but those with `vehicle_residual` or "
        "`vehicle_within`.",
    )
    models_per_features: int = Field(
        default=1, ge=1, le=100, description="How many of the best models of each feature set take part."
    )
    n_clusters: Counts = Field(
        default=tuple(range(2, 16)), description="Numbers of clusters: there is a model for each of them."
    )
    linkage: Literal["average", "complete", "single"] = Field(
        default="average",
        description="Linkage of the tree, in which the distance of two images is the share of models that part them.",
    )
    max_tuples: int = Field(
        default=4096,
        ge=2,
        le=16_384,
        description="Images with the same labels in all models that take part are one point of the tree. At most this "
        "many points are used, the most frequent ones; the driver holds 8 bytes for each pair of them.",
    )

    @model_validator(mode="after")
    def _check(self) -> ConsensusConfig:
        if max(self.n_clusters) > self.max_tuples:
            raise ValueError(f"n_clusters: {max(self.n_clusters)} is above max_tuples = {self.max_tuples}")
        if self.features is not None and len(set(self.features)) < len(self.features):
            raise ValueError("`features` names a feature set twice")
        return self


class OutlierConfig(Section):
    """Which images fit in nowhere: methods by name, on the named feature sets (all by default)."""

    methods: list[OutlierMethodName] = Field(
        default_factory=lambda: [m.name for m in OUTLIER_METHODS.values() if m.default],
        min_length=1,
        description="[Outlier methods](outliers.md). Default: all but "
        f"{_named(m.name for m in OUTLIER_METHODS.values() if not m.default)}.",
    )
    features: list[Name] | None = Field(default=None, min_length=1, description="Feature sets to score. Default: all.")
    k: int = Field(
        default=50,
        ge=1,
        le=1000,
        description="Number of neighbours that "
        f"{_named(m.name for m in OUTLIER_METHODS.values() if 'k' in m.settings)} look at. Outliers come in small "
        "groups, so a small number misses them.",
    )
    share: float = Field(
        default=0.02, gt=0, lt=1, description="Share of the images, those with the highest scores, flagged as outliers."
    )

    @model_validator(mode="after")
    def _check(self) -> OutlierConfig:
        if len(set(self.methods)) < len(self.methods):
            raise ValueError("`methods` names a method twice")
        return self


class ProjectionConfig(Section):
    """Maps of all images: methods by name, to two or three dimensions, of the named feature sets (all by default)."""

    methods: list[MapMethodName] = Field(
        default_factory=lambda: [m.name for m in MAP_METHODS.values() if m.default],
        min_length=1,
        description="Methods of the [maps](maps.md).",
    )
    dims: list[Literal[2, 3]] = Field(
        default=[2], min_length=1, description="Dimensions: a map of each method for each."
    )
    features: list[Name] | None = Field(default=None, min_length=1, description="Feature sets to map. Default: all.")
    sample: int = Field(
        default=20_000,
        ge=100,
        le=100_000,
        description=f"Number of images that {_named(m.name for m in MAP_METHODS.values() if m.lay_out)} lay out. All "
        "others are placed among these.",
    )
    n_neighbors: int = Field(
        default=15, ge=2, le=200, description="`umap`: number of neighbours kept together, the image itself included."
    )
    perplexity: float = Field(
        default=30.0,
        ge=2,
        le=200,
        description="`tsne`: roughly the number of neighbours kept together. It looks at three times as many.",
    )

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

    models: Annotated[tuple[str, ...] | int, BeforeValidator(_ids_or_count)] = Field(
        default=12,
        description="Models whose clusters get titles, descriptions and photos: a list of model ids, or a number. The "
        "number takes the best model of each feature set, in the order of the leaderboard.",
    )
    members: int = Field(
        default=12,
        ge=1,
        le=100,
        description="Photos of each kind (exemplar, typical, borderline) that are kept for each cluster.",
    )
    sample: int = Field(
        default=200,
        ge=0,
        le=5_000,
        description="Photos of each cluster whose appearance is measured, at most 20,000 for all clusters of a model; "
        "0: none.",
    )
    titles: Annotated[Location, Field(min_length=1)] | None = Field(
        default=None,
        description="YAML file of titles that people give clusters: `FEATURE_SET k=6: {0: White vans}`; see "
        "[titles](report.md#titles). `motorpool titles` brings a changed file into lake and report in seconds.",
    )
    out: Annotated[Location, Field(min_length=1)] | None = Field(
        default=None, description="Folder to write. Default: `report`, beside the lake's folder."
    )
    points: int = Field(default=20_000, ge=100, le=50_000, description="Images on the maps, drawn at random.")
    thumbnails: int = Field(
        default=8_000, ge=0, le=20_000, description="Images on the maps that show their photo, 1 to 3 KB each."
    )
    cards: int = Field(
        default=100, ge=1, le=1_000, description="Clusters with a card, over all models shown, up to 60 KB each."
    )
    outliers: int = Field(
        default=48,
        ge=1,
        le=500,
        description="Outliers of the consensus shown with their photo; of each single method at most 12 are shown.",
    )

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
    """A run: the whole YAML file."""

    case: CaseConfig | None = Field(
        default=None,
        description="Where the images and descriptors are. Only the stages after `ingest` work without it.",
    )
    lake: LakeConfig = Field(description="Where the tables are written.")
    features: list[FeatureSetConfig] = Field(
        default_factory=list, description="Feature sets: which descriptors, through which steps."
    )
    vehicles: VehiclesConfig = Field(default=VehiclesConfig(), description="How vehicles are used.")
    cluster: ClusterConfig = Field(default=ClusterConfig(), description="Models to fit on every feature set.")
    consensus: ConsensusConfig | None = Field(
        default=None, description="Clusterings that several models agree on. Left out: none; `{}`: all defaults."
    )
    nuisance: NuisanceConfig | None = Field(
        default=None, description="Columns that no cluster should follow. Left out: none."
    )
    outliers: OutlierConfig | None = Field(
        default=None, description="Outlier scores of all images. Left out: none; `{}`: all defaults."
    )
    projections: ProjectionConfig | None = Field(
        default=None, description="Maps of all images. Left out: none; `{}`: all defaults."
    )
    duplicates: DuplicatesConfig | None = Field(
        default=None, description="Images that show the same. Left out: none are looked for; `{}`: all defaults."
    )
    neighbours: NeighboursConfig | None = Field(
        default=None, description="The nearest images of every image. Left out: none; `{}`: all defaults."
    )
    photo_quality: PhotoQualityConfig | None = Field(
        default=None, description="Quality of every photo. Left out: not measured; `{}`: all defaults."
    )
    labels: LabelsConfig | None = Field(
        default=None, description="Attributes of the images, labelled from the looks of people. Left out: none."
    )
    report: ReportConfig | None = Field(
        default=None, description="Photos, titles and the report. Left out: none; `{}`: all defaults."
    )
    # No machine with a GPU has run the tests yet, so nobody gets one without asking.
    accelerator: Literal["auto", "cpu", "gpu"] = Field(
        default="cpu",
        description="Where tasks do their arithmetic. `auto` takes GPUs where every executor has one and the packages "
        "for it; `gpu` stops the run where one is missing.",
    )
    seed: int = Field(
        default=42, ge=0, lt=2**31, description="Seed of everything random. The same seed gives the same labels."
    )
    spark: dict[str, str] = Field(
        default_factory=dict, description="Settings of the Spark session, passed on as they are."
    )

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
        asked["duplicates"] = self.duplicates.features if self.duplicates else None
        asked["neighbours"] = self.neighbours.features if self.neighbours else None
        for name, attribute in (self.labels.attributes if self.labels else {}).items():
            asked[f"labels.attributes.{name}"] = attribute.features
        for key, wanted in asked.items():
            unknown = [n for n in wanted or [] if n not in names]
            if unknown:
                raise ValueError(
                    f"{key}.features: {unknown[0]!r} is no feature set of this config: {', '.join(names) or 'none'}"
                )
        if self.projections is not None:
            self.projections.check_widths(self.feature_sets)
        self._check_engines()
        self._check_vehicle_methods()
        self._check_duplicates(names)
        if self.consensus is not None:
            sets = self.consensus.features if self.consensus.features is not None else self.consensus_features
            if len(sets) * self.consensus.models_per_features < 2:
                raise ValueError(
                    f"consensus: {len(sets)} feature sets with models_per_features = "
                    f"{self.consensus.models_per_features} are less than the two models that a consensus takes: "
                    "name more feature sets, or raise consensus.models_per_features"
                )
        return self

    def _check_engines(self) -> None:
        """ValueError for an engine that needs GPUs in a run that does without."""
        if self.accelerator == "gpu":
            return
        asked: dict[str, FeatureSetConfig | ModelGrid] = {f"features[{i}]": fs for i, fs in enumerate(self.features)}
        asked |= {f"cluster.models[{i}]": grid for i, grid in enumerate(self.cluster.models)}
        for key, section in asked.items():
            if section.gpu_modules:
                raise ValueError(
                    f"{key}.engine: {getattr(section, 'engine', None)} works on GPUs alone, and accelerator is "
                    f"{self.accelerator}: set accelerator: gpu, or take another engine"
                )

    def _check_vehicle_methods(self) -> None:
        """ValueError for outlier methods that compare the photos of a vehicle, in a case that names no vehicles."""
        asked = [m for m in (self.outliers.methods if self.outliers else []) if "vehicles" in OUTLIER_METHODS[m].needs]
        if asked and self.case and self.case.vehicle_pattern is None and self.case.vehicle_column is None:
            raise ValueError(
                f"outliers.methods: {asked[0]} needs to know which photos show the same vehicle: give "
                "case.vehicle_pattern or case.vehicle_column, or leave the method out"
            )

    def _check_duplicates(self, names: list[str]) -> None:
        """ValueError for a feature set whose duplicates would be told wrongly."""
        if self.duplicates is None:
            return
        if self.duplicates.photos and PHOTOS in names:
            raise ValueError(
                f"features: the name {PHOTOS!r} is taken by what the photo files tell of duplicates, choose another, "
                "or set duplicates.photos to false"
            )
        merging = [fs.name for fs in self.feature_sets if fs.merges_vehicles]
        named = next((name for name in self.duplicates.features or [] if name in merging), None)
        if named is not None:
            raise ValueError(
                f"duplicates.features: all photos of a vehicle are one vector in {named!r}, so all would be "
                "duplicates: leave it out"
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


def _short(value: Any) -> str:
    """What was found, without all of what may be long."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:197]}..."
