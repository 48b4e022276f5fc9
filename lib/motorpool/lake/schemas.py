"""The tables: names, columns, partitions, and which stage writes each. This is the public interface."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

from pyspark.sql.types import StructField, StructType

from motorpool.kernels.scores import SCORES, measured, ranked
from motorpool.lake import ranking
from motorpool.texts import listed

_T = TypeVar("_T")


@dataclass(frozen=True)
class Table:
    """A table of the lake.

    ``columns`` is Spark DDL, ``rows`` says what one row is, and ``comments`` has a sentence or two for every column, in
    the order of ``columns``. ``partition_by`` names the columns whose values a stage replaces as a whole; tables
    without any are small enough to be rewritten. ``open_ended`` tables take further columns. ``never_null`` names
    columns without nulls, also inside of their lists, for those who write files; readers may meet older ones.
    """

    name: str
    columns: str
    written_by: str
    rows: str
    comments: Mapping[str, str]
    partition_by: tuple[str, ...] = ()
    open_ended: bool = False
    never_null: tuple[str, ...] = ()

    @property
    def schema(self) -> StructType:
        return _schema(self.columns)

    @property
    def commented(self) -> StructType:
        """The same with the comments of columns, as Delta and catalogs keep them."""
        named = self.comments
        return StructType([StructField(f.name, f.dataType, metadata={"comment": named[f.name]}) for f in self.schema])


@cache
def _schema(columns: str) -> StructType:
    """The columns that Spark DDL names, asked of the JVM once; for reading only, as all tables with them share it."""
    schema = StructType.fromDDL(columns)
    if not isinstance(schema, StructType):
        raise TypeError(f"{columns}: are no table's columns")
    return schema


_IMAGE_ID = "Number of the image: the place of its row in the paths file, from 0 on. Appended ones go on behind."
_PATH = "Path of the photo, with forward slashes."
_VEHICLE_ID = "The vehicle in the photo: from the path or the attributes file; null where neither names one."
_FEATURES = "Name of the feature set."
_MODEL_ID = "Id of the model: a hash of its feature set, algorithm, parameters and seed."
_CLUSTER = "Number of the cluster, from 0 on."
_CREATED_AT = "Time of writing."
_APPEND_ID = "Id of the append: its `first_image_id`, as text."
_BACKEND = "Where the arithmetic ran: `cpu` or `gpu`."
_ENGINE = "Where it was fitted: `cpu` or `gpu`, by Motorpool's kernels; or the library that the grid's `engine` names."

_INPUTS = (
    Table(
        "images",
        "image_id BIGINT, path STRING, vehicle_id STRING",
        "ingest",
        rows="One row per image, with the columns of the attributes file (as text) behind those below.",
        comments={
            "image_id": _IMAGE_ID,
            "path": _PATH,
            "vehicle_id": _VEHICLE_ID,
        },
        open_ended=True,
    ),
    Table(
        "descriptors",
        "image_id BIGINT, descriptor STRING, vector ARRAY<FLOAT>",
        "ingest",
        rows="One row per image and descriptor.",
        comments={
            "image_id": _IMAGE_ID,
            "descriptor": "Name of the descriptor.",
            "vector": "The row of the array file.",
        },
        partition_by=("descriptor",),
        never_null=("image_id", "vector"),
    ),
    Table(
        "sources",
        "descriptor STRING, file STRING, n_rows BIGINT, n_columns INT, dtype STRING, n_dropped BIGINT, "
        "paths_fingerprint STRING, ingested_at TIMESTAMP, computed_by STRING",
        "ingest",
        rows="One row per descriptor, written last: a descriptor without a row here is not in the lake.",
        comments={
            "descriptor": "Name of the descriptor.",
            "file": "The array file; the network's file or the built-in method for one that was computed from photos.",
            "n_rows": "Rows of the file, or photos.",
            "n_columns": "Numbers of a row.",
            "dtype": "Type of its numbers, such as float32.",
            "n_dropped": "Rows left out because of NaN or infinity (`on_bad_rows: drop`), or of photos that cannot be "
            "read.",
            "paths_fingerprint": "Hash of all paths: descriptors that are added later must belong to the same images.",
            "ingested_at": _CREATED_AT,
            "computed_by": "What computed it from photos: a hash of the network and of how photos are prepared for it, "
            "so that no other takes its place under the same name. Null for what was read.",
        },
    ),
    Table(
        "described",
        "descriptor STRING, image_id BIGINT, vector ARRAY<FLOAT>, problem STRING, source STRING, part STRING",
        "ingest",
        rows="One row per image and descriptor that is being computed from photos; empty when all are in "
        "`descriptors`. A run that is stopped goes on behind the last part.",
        comments={
            "descriptor": "Name of the descriptor.",
            "image_id": _IMAGE_ID,
            "vector": "The vector; null where there is a problem.",
            "problem": "Why there is no vector: what is wrong with the photo, or with the vector.",
            "source": "Hash of the images, of the place of the photos and of `computed_by`.",
            "part": "Images whose vectors were written together.",
        },
        partition_by=("part",),
    ),
    Table(
        "bad_rows",
        "image_id BIGINT, path STRING, descriptors ARRAY<STRING>, reason STRING",
        "ingest",
        rows="One row per image that is left out: by `on_bad_rows: drop`, or because its photo cannot be read.",
        comments={
            "image_id": _IMAGE_ID,
            "path": _PATH,
            "descriptors": "Descriptors that have no row for it that could be used.",
            "reason": "Why: NaN or infinity, or what is wrong with the photo.",
        },
    ),
    Table(
        "feature_sets",
        "features STRING, descriptors ARRAY<STRING>, steps ARRAY<STRING>, n_features INT, n_images BIGINT, "
        "explained_variance DOUBLE, explained_variance_curve ARRAY<DOUBLE>, definition STRING, "
        "program ARRAY<STRUCT<position: INT, part: INT, op: STRING, field: STRING, shape: ARRAY<INT>, "
        "values: ARRAY<DOUBLE>>>, created_at TIMESTAMP",
        "features",
        rows="One row per feature set, written last: a feature set without a row here is not in the lake.",
        comments={
            "features": _FEATURES,
            "descriptors": "Descriptors that it is made of.",
            "steps": "Its steps, in the order in which they are applied.",
            "n_features": "Length of its vectors.",
            "n_images": "Images that have a vector, appended ones not counted.",
            "explained_variance": "Share of the variance that its last PCA or SVD keeps; null without one.",
            "explained_variance_curve": "That share for 1, 2, 3, ... components.",
            "definition": "All that defines its vectors, as JSON. Equal definitions give equal vectors.",
            "program": "The fitted numbers. Applied in order, its operations turn raw descriptors into features, also "
            "those of new images. `group_center` and `group_standard` have a row `group` for each value of their "
            "column, and a row `others` for all other images.",
            "created_at": _CREATED_AT,
        },
    ),
    Table(
        "features",
        "image_id BIGINT, features STRING, vector ARRAY<FLOAT>",
        "features",
        rows="One row per image and feature set.",
        comments={
            "image_id": _IMAGE_ID,
            "features": _FEATURES,
            "vector": "The vector that models are fitted on.",
        },
        partition_by=("features",),
        never_null=("image_id", "vector"),
    ),
)

_GROWN = (
    Table(
        "appends",
        "append_id STRING, case STRING, first_image_id BIGINT, n_rows BIGINT, n_images BIGINT, n_known BIGINT, "
        "n_dropped BIGINT, paths_fingerprint STRING, created_at TIMESTAMP, finished_at TIMESTAMP",
        "append",
        rows="One row per append. Images from the lowest `first_image_id` on are appended; nothing is fitted on them.",
        comments={
            "append_id": _APPEND_ID,
            "case": "The case that the images came from, as JSON: keys of the config's section `case`.",
            "first_image_id": "Image id of the case's row 0; row i has this plus i.",
            "n_rows": "Images of the case: the append has so many ids for them.",
            "n_images": "Images that it added.",
            "n_known": "Images left out because the lake had them already.",
            "n_dropped": "Images left out because of NaN or infinity (`on_bad_rows: drop`).",
            "paths_fingerprint": "Hash of all paths of the case.",
            "created_at": "Time at which it began.",
            "finished_at": "Time at which its images had everything; null: it goes on with the next `motorpool append` "
            "or `motorpool run`.",
        },
    ),
    Table(
        "drift",
        "append_id STRING, model_id STRING, n_images BIGINT, n_far BIGINT, share_far DOUBLE, usual_far DOUBLE, "
        "far_from DOUBLE, psi DOUBLE, psi_by_chance DOUBLE, refit_due BOOLEAN, reason STRING, created_at TIMESTAMP",
        "append",
        rows="One row per append and model, and one per model for all appended images together.",
        comments={
            "append_id": f"{_APPEND_ID} `all`: all appends together.",
            "model_id": _MODEL_ID,
            "n_images": "Appended images that the model labels.",
            "n_far": "Those of them that are noise, or farther from their centroid than `far_from`.",
            "share_far": "Their share.",
            "usual_far": "That share of the images that the model was fitted on.",
            "far_from": "99 % of the images that the model was fitted on, noise aside, are within this distance of "
            "their centroid; null for models other than KMeans and its kin. Far images of DBSCAN and HDBSCAN are "
            "noise, those of mixtures and agglomerative clustering are not known.",
            "psi": "Population stability index of the clusters' shares, noise among them: 0 for equal shares.",
            "psi_by_chance": "The index that as many images drawn from the fitted ones stay below in 999 of 1,000 "
            "draws.",
            "refit_due": "True where the new images differ so much that the model should be fitted anew.",
            "reason": "Why; null where it is not due.",
            "created_at": _CREATED_AT,
        },
    ),
    Table(
        "cluster_ids",
        "model_id STRING, cluster INT, stable_id INT, earlier_cluster INT, n_images BIGINT, n_shared BIGINT, "
        "created_at TIMESTAMP",
        "match",
        rows="One row per cluster of every model that an earlier lake has too, and one per id that no cluster has any "
        "more.",
        comments={
            "model_id": _MODEL_ID,
            "cluster": "Number of the cluster; null for an id that no cluster has any more.",
            "stable_id": "Its id: that of the earlier cluster that it continues, or one that the model never had.",
            "earlier_cluster": "Number of that cluster in the earlier lake; null where there is none.",
            "n_images": "Images in the cluster.",
            "n_shared": "Those of them that were in the earlier one.",
            "created_at": _CREATED_AT,
        },
    ),
)


def _models() -> Table:
    """The table of models, with a column for every score."""
    fitted = set(measured("fit"))
    found = {name: score.meaning for name, score in SCORES.items() if name not in fitted}
    of_fit = {name: SCORES[name].meaning for name in SCORES if name in fitted}
    return Table(
        "models",
        "model_id STRING, features STRING, algorithm STRING, params MAP<STRING,STRING>, n_clusters INT, "
        f"n_noise BIGINT, {_doubles(found)}agreement_vehicles BIGINT, vehicle_part STRING, {_doubles(of_fit)}"
        "status STRING, reason STRING, warning STRING, n_iter INT, seconds DOUBLE, backend STRING, "
        "created_at TIMESTAMP",
        "cluster",
        rows="One row per model. A row here says that the model is finished.",
        comments={
            "model_id": _MODEL_ID,
            "features": _FEATURES,
            "algorithm": "Its algorithm, or `consensus`.",
            "params": "Its parameters, as text.",
            "n_clusters": "Clusters found, noise not counted.",
            "n_noise": "Images in no cluster.",
            **found,
            "agreement_vehicles": "Vehicles with two photos or more that `vehicle_agreement` was measured on. Where a "
            "feature set is fitted on some of the vehicles these are the others, for the models of all feature sets "
            "alike.",
            "vehicle_part": "What the features keep: `whole` (everything), `between` (differences between vehicles) or "
            "`within` (differences among the photos of a vehicle, such as the view).",
            **of_fit,
            "status": "`ok`, `degenerate` (kept, not ranked) or `failed`.",
            "reason": "Why it is degenerate or failed.",
            "warning": "Why to look twice before its clusters are used as labels: the columns of `nuisance.columns` "
            "that they follow. Null without any.",
            "n_iter": "Passes or iterations.",
            "seconds": "Seconds of fitting. Models that share their passes share the seconds.",
            "backend": _ENGINE,
            "created_at": _CREATED_AT,
        },
    )


def _doubles(names: Iterable[str]) -> str:
    return "".join(f"{name} DOUBLE, " for name in names)


_CLUSTERED = (
    Table(
        "labels",
        "model_id STRING, image_id BIGINT, cluster INT, distance FLOAT, strength FLOAT, outlier_score FLOAT",
        "cluster",
        rows="One row per image and model. A model that puts all images into one cluster, or none, has no rows.",
        comments={
            "model_id": _MODEL_ID,
            "image_id": _IMAGE_ID,
            "cluster": "Number of the cluster, from 0 on; -1 is noise.",
            "distance": "Distance to the centroid; DBSCAN: to the nearest core image, 0 for core images.",
            "strength": "How firmly the image belongs to its cluster, 0 to 1. KMeans, mini-batch KMeans: 1 less the "
            "distance over that to the next centroid. Bisecting KMeans: 1 less the distance over that to the other "
            "side's centroid, the least of all splits on the way. Mixtures: the probability of the component. HDBSCAN: "
            "the strength of membership. Null otherwise.",
            "outlier_score": "HDBSCAN: GLOSH, but null where a library's `engine` fitted it. Mixtures: minus the log "
            "density. Null otherwise.",
        },
        partition_by=("model_id",),
    ),
    Table(
        "parameters",
        "model_id STRING, field STRING, shape ARRAY<INT>, values ARRAY<DOUBLE>",
        "cluster",
        rows="One row per array of a model: centroids, mixtures, trees. They label new images.",
        comments={
            "model_id": _MODEL_ID,
            "field": "Name of the array.",
            "shape": "Its shape.",
            "values": "Its numbers, row by row.",
        },
    ),
    Table(
        "k_distances",
        "features STRING, metric STRING, k INT, quantile DOUBLE, distance DOUBLE, knee BOOLEAN",
        "cluster",
        rows="One row per hundredth of a k-distance curve: how far images are from their k-th nearest image. It "
        "helps to choose `eps`.",
        comments={
            "features": _FEATURES,
            "metric": "`euclidean` or `cosine`.",
            "k": "Which neighbour, the image itself included: `min_samples` of DBSCAN.",
            "quantile": "Share of the images, 0 to 1.",
            "distance": "That share of the images has its k-th nearest image within this distance.",
            "knee": "True in the row where the curve bends most.",
        },
    ),
    Table(
        "clusters",
        "model_id STRING, cluster INT, size BIGINT, share DOUBLE, centroid ARRAY<FLOAT>, "
        "exemplars ARRAY<BIGINT>, title STRING, description STRING, title_from STRING, title_share DOUBLE, "
        "given STRING, evidence STRING",
        "cluster",
        rows="One row per cluster of every model.",
        comments={
            "model_id": _MODEL_ID,
            "cluster": _CLUSTER,
            "size": "Images in it.",
            "share": "Their share of all images.",
            "centroid": "Mean of their vectors; null for a consensus.",
            "exemplars": "The images nearest to the centroid, nearest first.",
            "title": "A short title, from evidence or from people; null for models that were not interpreted.",
            "description": "Sentences about the cluster, likewise.",
            "title_from": "Where the title comes from: `people` (a file of titles), `attributes` (columns of "
            "`images`), `labels` (accepted ones of `image_labels`), `photos` (measured), or several of these joined "
            "by ` and `; null where nothing names the cluster.",
            "title_share": "The share of the cluster's images that have what its title says, the smallest of its "
            "parts; null for titles that people give.",
            "given": "What people call the cluster: title, description or both, as JSON; null where they say nothing.",
            "evidence": "What title and description are made of, counts and shares, as JSON; null for models that were "
            "not interpreted.",
        },
    ),
)

_OUTLIERS = (
    Table(
        "outliers",
        "features STRING, method STRING, image_id BIGINT, score DOUBLE, is_outlier BOOLEAN",
        "outliers",
        rows="One row per image, feature set and method.",
        comments={
            "features": "Name of the feature set, or `consensus`: all methods and feature sets together.",
            "method": "Outlier method, or `consensus`.",
            "image_id": _IMAGE_ID,
            "score": "High is unusual. Comparable within one feature set and method only.",
            "is_outlier": "True for the images with the highest scores (`outliers.share`).",
        },
        partition_by=("features",),
    ),
    Table(
        "outlier_reasons",
        "features STRING, method STRING, image_id BIGINT, reason STRING, neighbours ARRAY<BIGINT>, vehicle_id STRING, "
        "value DOUBLE, usual DOUBLE",
        "outliers",
        rows="One row per image that `outliers` flags.",
        comments={
            "features": "Name of the feature set, or `consensus`.",
            "method": "Outlier method, or `consensus`.",
            "image_id": _IMAGE_ID,
            "reason": "A sentence that says what the score means.",
            "neighbours": "Images to compare it with, best first; null where a method has none.",
            "vehicle_id": "The vehicle in the photo; null where none is named.",
            "value": "Its score.",
            "usual": "Median score of the method.",
        },
        partition_by=("features",),
    ),
    Table(
        "outlier_methods",
        "features STRING, method STRING, params MAP<STRING,STRING>, n_outliers BIGINT, threshold DOUBLE, "
        "seconds DOUBLE, created_at TIMESTAMP",
        "outliers",
        rows="One row per feature set and method, written last: a method without a row here is not in the lake.",
        comments={
            "features": "Name of the feature set, or `consensus`.",
            "method": "Outlier method, or `consensus`.",
            "params": "What the scores depend on, as text. Where vehicles lead the consensus, its row also has "
            "`leading`, the methods that know the vehicles, and `weights`: JSON, by feature set and method.",
            "n_outliers": "Images flagged.",
            "threshold": "Lowest score of a flagged image.",
            "seconds": "Seconds of scoring.",
            "created_at": _CREATED_AT,
        },
    ),
)

_PROJECTIONS = (
    Table(
        "projections",
        "features STRING, method STRING, image_id BIGINT, x FLOAT, y FLOAT, z FLOAT",
        "project",
        rows="One row per image and map.",
        comments={
            "features": _FEATURES,
            "method": "Method and dimensions: `pca2`, `umap3`, ...",
            "image_id": _IMAGE_ID,
            "x": "Place on the map. Units mean nothing.",
            "y": "Place on the map.",
            "z": "Place on the map; null in two dimensions.",
        },
        partition_by=("features",),
    ),
    Table(
        "projection_methods",
        "features STRING, method STRING, params MAP<STRING,STRING>, n_images BIGINT, n_fitted BIGINT, "
        "trustworthiness DOUBLE, seconds DOUBLE, backend STRING, axes ARRAY<ARRAY<DOUBLE>>, created_at TIMESTAMP",
        "project",
        rows="One row per map, written last: a map without a row here is not in the lake.",
        comments={
            "features": _FEATURES,
            "method": "Method and dimensions: `pca2`, `umap3`, ...",
            "params": "What the map depends on, as text.",
            "n_images": "Images on the map.",
            "n_fitted": "Images that the method laid out; the others were placed by their neighbours among them.",
            "trustworthiness": "Trustworthiness of five neighbours, on a sample: 1 is perfect.",
            "seconds": "Seconds of laying out and placing.",
            "backend": _BACKEND,
            "axes": "Of PCA: the centre, then an axis for each dimension. The product of an axis with what a vector "
            "differs from the centre is its place, also that of new images. Null for other methods.",
            "created_at": _CREATED_AT,
        },
    ),
)

_AGREEMENT = Table(
    "agreement",
    "model_a STRING, model_b STRING, features_a STRING, features_b STRING, ari DOUBLE, nmi DOUBLE, n_images BIGINT",
    "consensus",
    rows="One row per pair of the models that a consensus is made of, and per pair of the best consensus and each of "
    "them.",
    comments={
        "model_a": "Id of one model: the first by feature set, then by id.",
        "model_b": "Id of the other.",
        "features_a": "Feature set of the one.",
        "features_b": "Feature set of the other.",
        "ari": "Adjusted Rand index: 0 is chance, 1 is equal. Noise counts as a cluster.",
        "nmi": "Normalised mutual information, 0 to 1. Noise counts as a cluster.",
        "n_images": "Images compared.",
    },
)

_NUISANCE = Table(
    "nuisance",
    "model_id STRING, column_name STRING, nmi DOUBLE, nmi_by_chance DOUBLE, n_images BIGINT, n_values BIGINT, "
    "fingerprint STRING, created_at TIMESTAMP",
    "nuisance",
    rows="One row per model with labels and column of `nuisance.columns`: how far its clusters follow it.",
    comments={
        "model_id": _MODEL_ID,
        "column_name": "The column of `images`, such as `camera`.",
        "nmi": "Normalised mutual information of clusters and values, 0 (they have nothing in common) to 1 (the "
        "clusters are the values). Noise counts as a cluster; null where no image has a value.",
        "nmi_by_chance": "The figure that values without any connection to the clusters stay below in 999 of 1,000 "
        "draws.",
        "n_images": "Images that have a label and a value.",
        "n_values": "Different values of these.",
        "fingerprint": "Hash of the column: where its values change, models are measured again.",
        "created_at": _CREATED_AT,
    },
)

_VEHICLES = Table(
    "vehicles",
    "model_id STRING, vehicle_id STRING, cluster INT, n_photos BIGINT, agreement DOUBLE, dissenting ARRAY<BIGINT>",
    "vehicles",
    rows="One row per vehicle and model, for the best models. Vehicles that feature sets were fitted on are included.",
    comments={
        "model_id": _MODEL_ID,
        "vehicle_id": "The vehicle.",
        "cluster": "The cluster of most of its photos; of equally frequent ones the lowest; -1 (noise) only where no "
        "cluster is as frequent.",
        "n_photos": "Its photos with a label.",
        "agreement": "Share of them in that cluster.",
        "dissenting": "Photos in another cluster: at most 100, the lowest ids.",
    },
    partition_by=("model_id",),
)

_PAIRED = "Name of the feature set, or `photos`: the files of the photos were compared."

_PAIRS = (
    Table(
        "duplicates",
        "features STRING, image_id BIGINT, other_id BIGINT, kind STRING, similarity DOUBLE, same_vehicle BOOLEAN, "
        "same_split BOOLEAN",
        "duplicates",
        rows="One row per pair of images that show the same, each pair once. Of equal images those with the first of "
        "them; of near duplicates those that are among the most similar ones (`duplicates.partners`) of either image.",
        comments={
            "features": _PAIRED,
            "image_id": "Number of the image that comes first.",
            "other_id": "Number of the other, which is higher.",
            "kind": "`file` (equal photo files), `vector` (equal vectors) or `near` (similar vectors).",
            "similarity": "Cosine of the two vectors; 1 for equal ones and for equal files.",
            "same_vehicle": "Whether both show the same vehicle; null where that of one is not known.",
            "same_split": "Whether both are in the same split (`duplicates.split`); null where that of one is not "
            "known.",
        },
        partition_by=("features",),
    ),
    Table(
        "duplicate_groups",
        "features STRING, group_id BIGINT, image_id BIGINT, is_keeper BOOLEAN, n_images BIGINT, n_vehicles BIGINT, "
        "n_splits BIGINT",
        "duplicates",
        rows="One row per image that has duplicates. A group holds all images that are connected by pairs of "
        "duplicates, whether `duplicates` lists these or not.",
        comments={
            "features": _PAIRED,
            "group_id": "Number of the group: that of its first image.",
            "image_id": _IMAGE_ID,
            "is_keeper": "True for one image of each group, its first: the one to keep where the others go.",
            "n_images": "Images of the group.",
            "n_vehicles": "Vehicles that they show, as far as these are known.",
            "n_splits": "Splits that they are in (`duplicates.split`), as far as these are known: above 1 is a leak.",
        },
        partition_by=("features",),
    ),
    Table(
        "duplicate_searches",
        "features STRING, params MAP<STRING,STRING>, n_images BIGINT, n_pairs BIGINT, n_groups BIGINT, "
        "n_duplicates BIGINT, seconds DOUBLE, created_at TIMESTAMP",
        "duplicates",
        rows="One row per feature set that was searched, and for `photos`, written last: duplicates without a row here "
        "are not complete.",
        comments={
            "features": _PAIRED,
            "params": "What the duplicates depend on, as text.",
            "n_images": "Images compared.",
            "n_pairs": "Rows of `duplicates`.",
            "n_groups": "Groups.",
            "n_duplicates": "Images of groups that are no keepers: as many can go.",
            "seconds": "Seconds of searching.",
            "created_at": _CREATED_AT,
        },
    ),
    Table(
        "neighbours",
        "features STRING, image_id BIGINT, rank INT, neighbour_id BIGINT, distance DOUBLE",
        "neighbours",
        rows="One row per image and each of its nearest others.",
        comments={
            "features": _FEATURES,
            "image_id": _IMAGE_ID,
            "rank": "Place among the image's neighbours, from 1 (the nearest) on; of equally near ones the lower "
            "number comes first.",
            "neighbour_id": "Number of the neighbour.",
            "distance": "Distance of the two vectors, by `neighbours.metric`.",
        },
        partition_by=("features",),
    ),
    Table(
        "neighbour_searches",
        "features STRING, params MAP<STRING,STRING>, n_images BIGINT, seconds DOUBLE, created_at TIMESTAMP",
        "neighbours",
        rows="One row per feature set that was searched, written last: neighbours without a row here are not complete.",
        comments={
            "features": _FEATURES,
            "params": "What the neighbours depend on, as text.",
            "n_images": "Images compared.",
            "seconds": "Seconds of searching.",
            "created_at": _CREATED_AT,
        },
    ),
)

_QUALITY = (
    Table(
        "photo_quality",
        "part STRING, image_id BIGINT, status STRING, error STRING, brightness DOUBLE, contrast DOUBLE, "
        "sharpness DOUBLE, entropy DOUBLE, width INT, height INT, flags ARRAY<STRING>",
        "quality",
        rows="One row per image.",
        comments={
            "part": "Number of the part of the images that was measured at once; of appended images behind the number "
            "of their append.",
            "image_id": _IMAGE_ID,
            "status": "`ok`, `missing`, `broken` or `refused` (the path leads out of the folder of photos).",
            "error": "What is wrong with a photo that is not `ok`; null for all others.",
            "brightness": "Median of the CIELAB lightness, 0 to 100.",
            "contrast": "Standard deviation of the lightness.",
            "sharpness": "Variance of the Laplacian of the grey photo: low is blurred.",
            "entropy": "Entropy of the grey levels in bits, 0 (one level) to 8.",
            "width": "Width in pixels.",
            "height": "Height in pixels.",
            "flags": "What is wrong with the photo, none where it is empty: `unreadable`, or some of `dark`, "
            "`low_contrast`, `blurred`, `low_information`, `small` and `odd_shape`.",
        },
        partition_by=("part",),
    ),
    Table(
        "photo_surveys",
        "part STRING, params MAP<STRING,STRING>, n_images BIGINT, n_flagged BIGINT, n_unreadable BIGINT, "
        "seconds DOUBLE, created_at TIMESTAMP",
        "quality",
        rows="One row per part of the images, written last: photos of a part without a row here are not all measured.",
        comments={
            "part": "Number of the part.",
            "params": "What measurements and flags depend on, as text.",
            "n_images": "Images of the part.",
            "n_flagged": "Those with flags.",
            "n_unreadable": "Those whose photo could not be read.",
            "seconds": "Seconds of measuring.",
            "created_at": _CREATED_AT,
        },
    ),
)

_INTERPRETED = (
    Table(
        "cluster_members",
        "model_id STRING, cluster INT, kind STRING, position INT, image_id BIGINT, path STRING",
        "interpret",
        rows="One row per photo that stands for a cluster.",
        comments={
            "model_id": _MODEL_ID,
            "cluster": _CLUSTER,
            "kind": "`exemplar` (nearest to the centroid), `typical` (drawn at random) or `borderline` (nearly in "
            "another cluster).",
            "position": "Place within its kind, from 0 on.",
            "image_id": _IMAGE_ID,
            "path": _PATH,
        },
    ),
    Table(
        "appearance",
        "image_id BIGINT, status STRING, color STRING, light STRING, brightness DOUBLE, contrast DOUBLE, "
        "sharpness DOUBLE, width INT, height INT",
        "interpret",
        rows="One row per photo that was measured: a sample of each cluster.",
        comments={
            "image_id": _IMAGE_ID,
            "status": "`ok`, `missing`, `broken` or `refused` (the path leads out of the folder of photos).",
            "color": "Colour in the middle of the photo; null at night and for blank frames.",
            "light": "`night`, `dim`, `day` or `glare`.",
            "brightness": "Median of the CIELAB lightness, 0 to 100.",
            "contrast": "Standard deviation of the lightness.",
            "sharpness": "Variance of the Laplacian of the grey photo: low is blurred.",
            "width": "Width in pixels.",
            "height": "Height in pixels.",
        },
    ),
    Table(
        "interpretations",
        "model_id STRING, params MAP<STRING,STRING>, n_photos BIGINT, n_missing BIGINT, n_broken BIGINT, "
        "n_refused BIGINT, seconds DOUBLE, created_at TIMESTAMP",
        "interpret",
        rows="One row per interpreted model, written last: clusters of other models have no titles yet.",
        comments={
            "model_id": _MODEL_ID,
            "params": "What the interpretation depends on, as text.",
            "n_photos": "Photos measured.",
            "n_missing": "Photos that were not found.",
            "n_broken": "Photos that are no picture, cut off or too large.",
            "n_refused": "Photos whose path leads out of the folder of photos.",
            "seconds": "Seconds of interpretation.",
            "created_at": _CREATED_AT,
        },
    ),
)

_ATTRIBUTE = "Name of the attribute (`labels.attributes` of the config)."

_ANNOTATIONS = Table(
    "annotations",
    "image_id BIGINT, attribute STRING, value STRING, annotator STRING, purpose STRING, draw STRING, stratum STRING, "
    "weight DOUBLE, created_at TIMESTAMP",
    "annotate import",
    rows="One row per photo, attribute and annotator: what that person said last. No run deletes any.",
    comments={
        "image_id": _IMAGE_ID,
        "attribute": _ATTRIBUTE,
        "value": "The value; null where the person looked and cannot tell.",
        "annotator": "Who looked.",
        "purpose": "`train` (labels are learned from it) or `audit` (kept aside, to measure how often labels are "
        "right).",
        "draw": "Id of the draw that asked for it; null where nobody drew the photo.",
        "stratum": "The part of the images that an audit drew it from; null otherwise.",
        "weight": "Inverse of the chance of being drawn; null where that is not known.",
        "created_at": _CREATED_AT,
    },
)

_LABELLED = (
    Table(
        "image_labels",
        "image_id BIGINT, attribute STRING, value STRING, probability FLOAT, accepted BOOLEAN, source STRING",
        "label",
        rows="One row per image and attribute.",
        comments={
            "image_id": _IMAGE_ID,
            "attribute": _ATTRIBUTE,
            "value": "The likeliest value, or the one that a person gave.",
            "probability": "How likely the value is right, calibrated on photos of vehicles that were held out.",
            "accepted": "True where the accepted labels reach the attribute's target. The others are left for people, "
            "as are all outliers of the consensus.",
            "source": "`person` (somebody looked at it), `vehicle` (vote of the vehicle's photos), or for the photo "
            "alone `cluster` (named clusters), `probe` (a linear classifier) or `nearest` (like the nearest annotated "
            "photos).",
        },
        partition_by=("attribute",),
    ),
    Table(
        "label_sets",
        "attribute STRING, method STRING, features ARRAY<STRING>, per STRING, target DOUBLE, classes ARRAY<STRING>, "
        "n_looks BIGINT, n_unclear BIGINT, n_disagreed BIGINT, accuracy DOUBLE, accuracy_low DOUBLE, "
        "accuracy_high DOUBLE, expected DOUBLE, threshold DOUBLE, n_images BIGINT, n_accepted BIGINT, "
        "share_accepted DOUBLE, "
        "candidates ARRAY<STRUCT<method: STRING, sources: ARRAY<STRING>, number: DOUBLE, accuracy: DOUBLE, "
        "log_loss: DOUBLE>>, curve ARRAY<STRUCT<looks: INT, accuracy: DOUBLE>>, "
        "confusion ARRAY<STRUCT<value: STRING, label: STRING, n: DOUBLE>>, params MAP<STRING,STRING>, "
        "program ARRAY<STRUCT<part: INT, kind: STRING, source: STRING, field: STRING, shape: ARRAY<INT>, "
        "values: ARRAY<DOUBLE>>>, seconds DOUBLE, "
        "created_at TIMESTAMP",
        "label",
        rows="One row per attribute, written last: labels of an attribute without a row here are not complete.",
        comments={
            "attribute": _ATTRIBUTE,
            "method": "The best way: `clusters`, `probe` or `nearest`.",
            "features": "Feature sets that it, and the ways that are used beside it, look at.",
            "per": "`vehicle` (the photos of a vehicle vote) or `image`.",
            "target": "Share of right labels wanted among the accepted ones.",
            "classes": "The values, in the order of the program's columns.",
            "n_looks": "Photos with a value that people agree on.",
            "n_unclear": "Photos of which people said that it cannot be told.",
            "n_disagreed": "Photos left out because two annotators disagree.",
            "accuracy": "Share of right labels on photos of vehicles that were held out.",
            "accuracy_low": "Lower end of its 95 % interval.",
            "accuracy_high": "Upper end of its 95 % interval.",
            "expected": "Share of right labels on photos that nobody looked at, nor at their vehicle, as their "
            "probabilities promise: their mean. Below `accuracy` where the photos that people looked at are easier.",
            "threshold": "Lowest probability that is accepted; null where no label reaches the target.",
            "n_images": "Images labelled.",
            "n_accepted": "Images whose label is accepted.",
            "share_accepted": "Their share.",
            "candidates": "The ways that were compared, best first: the feature sets or the model that each reads, the "
            "number that it was fitted with (`C`, neighbours, looks added), its accuracy and its log loss on vehicles "
            "that were held out.",
            "curve": "Accuracy on held-out vehicles for part of the looks, to see whether more looks help.",
            "confusion": "Held-out photos by the value that a person gave and the label.",
            "params": "What the labels depend on, as text.",
            "program": "The fitted numbers, which also label new images: arrays by part, and what each part reads.",
            "seconds": "Seconds of comparing and labelling.",
            "created_at": _CREATED_AT,
        },
    ),
)

_AUDITS = Table(
    "audits",
    "attribute STRING, value STRING, accepted BOOLEAN, n_images BIGINT, n BIGINT, right BIGINT, accuracy DOUBLE, "
    "low DOUBLE, high DOUBLE, confidence DOUBLE, target DOUBLE, verdict STRING, created_at TIMESTAMP",
    "audit",
    rows="One row per attribute and value, and one for all its values: the last audit.",
    comments={
        "attribute": _ATTRIBUTE,
        "value": "The label; null in the row for all values together.",
        "accepted": "True: about the accepted labels. False: none is accepted, so the row is about all labels.",
        "n_images": "Images with such a label, but for those that people looked at.",
        "n": "Looks of the audit at such labels.",
        "right": "Looks that found the label right.",
        "accuracy": "Estimated share of right labels: each look counts by its weight. Null without looks.",
        "low": "Lower end of the interval of the accuracy.",
        "high": "Its upper end.",
        "confidence": "Share of audits whose interval covers the truth.",
        "target": "The accuracy that is wanted.",
        "verdict": "`accept` (even `low` reaches the target), `merge with X` (nearly all wrong labels are X, and as "
        "one value both would reach it), `look by hand` (the accuracy is below the target), or `more looks`.",
        "created_at": _CREATED_AT,
    },
)


class _Lookup(Mapping[str, _T]):
    """Values by name; functions among them are called whenever their value is asked for.

    What follows from a registry is so made of the entries that it holds then.
    """

    def __init__(self, values: Mapping[str, _T | Callable[[], _T]]) -> None:
        self._values = dict(values)

    def __getitem__(self, name: str) -> _T:
        value = self._values[name]
        return value() if callable(value) else value

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def _by_name(*tables: Table) -> dict[str, Table]:
    return {table.name: table for table in tables}


TABLES: Mapping[str, Table] = _Lookup(
    {
        **_by_name(*_INPUTS, *_GROWN),
        "models": _models,
        **_by_name(
            *_CLUSTERED,
            _AGREEMENT,
            _NUISANCE,
            _VEHICLES,
            *_OUTLIERS,
            *_PROJECTIONS,
            *_PAIRS,
            *_QUALITY,
            _ANNOTATIONS,
            *_LABELLED,
            _AUDITS,
            *_INTERPRETED,
        ),
    }
)

#: What one row of a view is, and what its columns mean.
VIEW_ROWS: Mapping[str, str] = {
    "assignments": "One row per image and model: `labels` with the image's path and vehicle, the model and the title.",
    "leaderboard": "One row per model that can be ranked, best first, with its scores from `models`.",
    "labelled_images": "One row per image, with three columns for every labelled attribute: for `type` these are "
    "`type` (the value), `type_probability` and `type_accepted`, as in `image_labels`.",
}


def _leaderboard_comments() -> dict[str, str]:
    models = TABLES["models"].comments
    titles = [score.title for score in ranked()]
    return {
        "rank": "Place among all models, from 1 on.",
        "rank_in_features": "Place among the models of its feature set, from 1 on.",
        "score": f"Mean of its relative ranks by {listed(titles)}, 0 (first) to 1 (last).",
        **{name: models[name] for name in ranking.columns()},
    }


VIEW_COMMENTS: Mapping[str, Mapping[str, str]] = _Lookup[Mapping[str, str]](
    {
        "assignments": {
            "model_id": _MODEL_ID,
            "features": _FEATURES,
            "algorithm": "The model's algorithm, or `consensus`.",
            "n_clusters": "Clusters of the model.",
            "image_id": _IMAGE_ID,
            "path": _PATH,
            "vehicle_id": _VEHICLE_ID,
            "cluster": "Number of the cluster, from 0 on; -1 is noise.",
            "distance": TABLES["labels"].comments["distance"],
            "strength": TABLES["labels"].comments["strength"],
            "title": "The cluster's title; null for models that were not interpreted.",
        },
        "leaderboard": _leaderboard_comments,
        "labelled_images": {"image_id": _IMAGE_ID, "path": _PATH, "vehicle_id": _VEHICLE_ID},
    }
)

#: Views over the tables; ``{images}`` and the like stand for the table's quoted name, and ``{attributes}`` for the
#: columns of the labelled attributes, which differ from lake to lake (`lake.views`).
VIEWS: Mapping[str, str] = _Lookup[str](
    {
        "assignments": """
        SELECT l.model_id, m.features, m.algorithm, m.n_clusters, l.image_id, i.path, i.vehicle_id,
               l.cluster, l.distance, l.strength, c.title
        FROM {labels} AS l
        INNER JOIN {models} AS m ON l.model_id = m.model_id
        INNER JOIN {images} AS i ON l.image_id = i.image_id
        LEFT JOIN {clusters} AS c ON l.model_id = c.model_id AND l.cluster = c.cluster
    """,
        "leaderboard": ranking.leaderboard,
        # Labels of attributes without a label set are not complete.
        "labelled_images": """
            SELECT i.image_id, i.path, i.vehicle_id{attributes}
            FROM {images} AS i
            LEFT JOIN (
                SELECT labels.* FROM {image_labels} AS labels
                INNER JOIN {label_sets} AS sets ON labels.attribute = sets.attribute
            ) AS l ON i.image_id = l.image_id
            GROUP BY i.image_id, i.path, i.vehicle_id
        """,
    }
)
