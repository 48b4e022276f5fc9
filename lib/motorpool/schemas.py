"""The tables: names, columns, partitions, and which stage writes each. This is the public interface."""

from __future__ import annotations

from dataclasses import dataclass

from pyspark.sql.types import StructType


@dataclass(frozen=True)
class Table:
    """A table of the lake.

    ``columns`` is Spark DDL. ``partition_by`` names the columns whose values a stage replaces as a whole;
    tables without any are small enough to be rewritten. ``open_ended`` tables take further columns.
    """

    name: str
    columns: str
    written_by: str
    partition_by: tuple[str, ...] = ()
    open_ended: bool = False

    @property
    def schema(self) -> StructType:
        schema = StructType.fromDDL(self.columns)
        if not isinstance(schema, StructType):
            raise TypeError(f"{self.name}: columns are no table's")
        return schema


_ALL = (
    Table(
        "images",
        "image_id BIGINT, path STRING, vehicle_id STRING",
        "ingest",
        open_ended=True,
    ),
    Table(
        "descriptors",
        "image_id BIGINT, descriptor STRING, vector ARRAY<FLOAT>",
        "ingest",
        partition_by=("descriptor",),
    ),
    # One row per ingested file, written last: a descriptor without its row here is not in the lake.
    Table(
        "sources",
        "descriptor STRING, file STRING, n_rows BIGINT, n_columns INT, dtype STRING, n_dropped BIGINT, "
        "paths_fingerprint STRING, ingested_at TIMESTAMP",
        "ingest",
    ),
    Table(
        "bad_rows",
        "image_id BIGINT, path STRING, descriptors ARRAY<STRING>",
        "ingest",
    ),
    # `program` holds the fitted numbers: applying its rows in order turns raw descriptors into features.
    Table(
        "feature_sets",
        "features STRING, descriptors ARRAY<STRING>, steps ARRAY<STRING>, n_features INT, n_images BIGINT, "
        "explained_variance DOUBLE, explained_variance_curve ARRAY<DOUBLE>, definition STRING, "
        "program ARRAY<STRUCT<position: INT, part: INT, op: STRING, field: STRING, shape: ARRAY<INT>, "
        "values: ARRAY<DOUBLE>>>, created_at TIMESTAMP",
        "features",
    ),
    Table(
        "features",
        "image_id BIGINT, features STRING, vector ARRAY<FLOAT>",
        "features",
        partition_by=("features",),
    ),
    # `agreement_vehicles`: on how many vehicles with two photos or more vehicle_agreement was measured. Once a feature
    # set is fitted on some of the vehicles these are the others, for all models alike. Both are null for features that
    # give all photos of a vehicle one vector: they agree by construction, which says nothing. `vehicle_part`: what the
    # features keep, the 'whole' descriptors, what differs 'between' vehicles, or what differs 'within' them (the view).
    Table(
        "models",
        "model_id STRING, features STRING, algorithm STRING, params MAP<STRING,STRING>, n_clusters INT, "
        "n_noise BIGINT, calinski_harabasz DOUBLE, davies_bouldin DOUBLE, silhouette DOUBLE, "
        "vehicle_agreement DOUBLE, agreement_vehicles BIGINT, vehicle_part STRING, inertia DOUBLE, bic DOUBLE, "
        "aic DOUBLE, status STRING, reason STRING, n_iter INT, seconds DOUBLE, backend STRING, created_at TIMESTAMP",
        "cluster",
    ),
    Table(
        "labels",
        "model_id STRING, image_id BIGINT, cluster INT, distance FLOAT, strength FLOAT, outlier_score FLOAT",
        "cluster",
        partition_by=("model_id",),
    ),
    # What labels new rows: centroids, mixtures, thresholds.
    Table(
        "parameters",
        "model_id STRING, field STRING, shape ARRAY<INT>, values ARRAY<DOUBLE>",
        "cluster",
    ),
    # How far images are from their k-th neighbour, themselves included, in hundredths; `knee` is where it bends.
    Table(
        "k_distances",
        "features STRING, metric STRING, k INT, quantile DOUBLE, distance DOUBLE, knee BOOLEAN",
        "cluster",
    ),
    Table(
        "clusters",
        "model_id STRING, cluster INT, size BIGINT, share DOUBLE, centroid ARRAY<FLOAT>, "
        "exemplars ARRAY<BIGINT>, title STRING, description STRING",
        "cluster",
    ),
)

_OUTLIERS = (
    # features and method are both 'consensus' where the score is what all methods agree on.
    Table(
        "outliers",
        "features STRING, method STRING, image_id BIGINT, score DOUBLE, is_outlier BOOLEAN",
        "outliers",
        partition_by=("features",),
    ),
    # One row per outlier that `outliers` flags: what the score says, and images to compare (`neighbours`, null where a
    # method knows none). `value` is the score, `usual` the median of its method.
    Table(
        "outlier_reasons",
        "features STRING, method STRING, image_id BIGINT, reason STRING, neighbours ARRAY<BIGINT>, vehicle_id STRING, "
        "value DOUBLE, usual DOUBLE",
        "outliers",
        partition_by=("features",),
    ),
    # One row per method, written last: a method without its row here is not in the lake.
    Table(
        "outlier_methods",
        "features STRING, method STRING, params MAP<STRING,STRING>, n_outliers BIGINT, threshold DOUBLE, "
        "seconds DOUBLE, created_at TIMESTAMP",
        "outliers",
    ),
)

_PROJECTIONS = (
    # Methods carry their dimensions: pca2, umap3. Units mean nothing; z is NULL in two dimensions.
    Table(
        "projections",
        "features STRING, method STRING, image_id BIGINT, x FLOAT, y FLOAT, z FLOAT",
        "project",
        partition_by=("features",),
    ),
    # One row per map, written last: a map without its row here is not in the lake. n_fitted images were laid out by the
    # method, the others placed by their neighbours among them; trustworthiness is that of five neighbours, on a sample.
    Table(
        "projection_methods",
        "features STRING, method STRING, params MAP<STRING,STRING>, n_images BIGINT, n_fitted BIGINT, "
        "trustworthiness DOUBLE, seconds DOUBLE, backend STRING, created_at TIMESTAMP",
        "project",
    ),
)

# Each pair of the consensus's member models once, and of the best consensus model with each of them: a before b by
# features, then by id. Both measures count noise as a cluster of its own.
_AGREEMENT = Table(
    "agreement",
    "model_a STRING, model_b STRING, features_a STRING, features_b STRING, ari DOUBLE, nmi DOUBLE, n_images BIGINT",
    "consensus",
)

# What the photos of a vehicle vote for: the label that most have (of equal ones the lower cluster; noise, -1, comes
# last), the share of its `n_photos` labelled photos that have it, and those that have another, the lowest 100 by id.
# All vehicles are in, those too that feature sets were fitted on.
_VEHICLES = Table(
    "vehicles",
    "model_id STRING, vehicle_id STRING, cluster INT, n_photos BIGINT, agreement DOUBLE, dissenting ARRAY<BIGINT>",
    "vehicles",
    partition_by=("model_id",),
)

_INTERPRETED = (
    # Photos that stand for a cluster, from position 0 on: `exemplar`, nearest to its centre; `typical`, drawn at
    # random; `borderline`, nearly another cluster's.
    Table(
        "cluster_members",
        "model_id STRING, cluster INT, kind STRING, position INT, image_id BIGINT, path STRING",
        "interpret",
    ),
    # One row per photo that was measured, a sample of each cluster. `status` is ok, missing, broken or refused.
    Table(
        "appearance",
        "image_id BIGINT, status STRING, color STRING, light STRING, brightness DOUBLE, contrast DOUBLE, "
        "sharpness DOUBLE, width INT, height INT",
        "interpret",
    ),
    # One row per model, written last: the clusters of a model without it have no titles yet.
    Table(
        "interpretations",
        "model_id STRING, params MAP<STRING,STRING>, n_photos BIGINT, n_missing BIGINT, n_broken BIGINT, "
        "n_refused BIGINT, seconds DOUBLE, created_at TIMESTAMP",
        "interpret",
    ),
)

TABLES: dict[str, Table] = {
    table.name: table for table in (*_ALL, _AGREEMENT, _VEHICLES, *_OUTLIERS, *_PROJECTIONS, *_INTERPRETED)
}

#: Views over the tables; ``{images}`` and the like stand for the table's quoted name.
VIEWS: dict[str, str] = {
    "assignments": """
        SELECT l.model_id, m.features, m.algorithm, m.n_clusters, l.image_id, i.path, i.vehicle_id,
               l.cluster, l.distance, l.strength, c.title
        FROM {labels} AS l
        INNER JOIN {models} AS m ON l.model_id = m.model_id
        INNER JOIN {images} AS i ON l.image_id = i.image_id
        LEFT JOIN {clusters} AS c ON l.model_id = c.model_id AND l.cluster = c.cluster
    """,
    # Rank aggregation (Borda): every criterion becomes a fractional rank in (0, 1), 0.5 for a lone model, and the three
    # ranks are averaged. A criterion that a model lacks counts as the middle, 0.5: were it left out, a model that is
    # good by the one it has would beat those that are good by all three. A model that has none cannot be ranked.
    # Calinski-Harabasz and Davies-Bouldin depend on a feature set's width and scale, so they are only ever ranked
    # within it; vehicle agreement is ranked over all models. There a consensus takes its place among the others but
    # moves none of them: it is made of the best, which must stay the best. Clusters of what differs within vehicles are
    # views: the photos of a vehicle ought to fall apart there, so agreement is shown but is no criterion. As nothing
    # else compares feature sets, these models are ranked within theirs and come behind all others. Rounding keeps ties
    # that sums in another order would break.
    "leaderboard": """
        WITH ok AS (
            SELECT *, features <> 'consensus' AS ordinary, coalesce(vehicle_part, 'whole') = 'within' AS of_views,
                   IF(coalesce(vehicle_part, 'whole') = 'within', NULL, vehicle_agreement) AS kept_together
            FROM {models} WHERE status = 'ok'
        ), placed AS (
            SELECT *,
                   rank() OVER (PARTITION BY features ORDER BY calinski_harabasz DESC NULLS LAST) - 1 AS above_ch,
                   count(calinski_harabasz) OVER (PARTITION BY features) AS n_ch,
                   rank() OVER (PARTITION BY features ORDER BY davies_bouldin ASC NULLS LAST) - 1 AS above_db,
                   count(davies_bouldin) OVER (PARTITION BY features) AS n_db,
                   count_if(ordinary) OVER (
                       ORDER BY kept_together DESC NULLS LAST RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
                   ) - count_if(ordinary) OVER (PARTITION BY kept_together) AS above_va,
                   count_if(ordinary AND kept_together IS NOT NULL) OVER () + IF(ordinary, 0, 1) AS n_va
            FROM ok
        ), criteria AS (
            SELECT *,
                   IF(calinski_harabasz IS NULL, NULL, (above_ch + 0.5D) / n_ch) AS by_ch,
                   IF(davies_bouldin IS NULL, NULL, (above_db + 0.5D) / n_db) AS by_db,
                   IF(kept_together IS NULL, NULL, (above_va + 0.5D) / n_va) AS by_va
            FROM placed
        ), merged AS (
            SELECT *,
                   round((coalesce(by_ch, 0.5D) + coalesce(by_db, 0.5D) + coalesce(by_va, 0.5D)) / 3, 12) AS score
            FROM criteria
            WHERE coalesce(by_ch, by_db, by_va) IS NOT NULL
        )
        SELECT CAST(row_number() OVER (ORDER BY of_views, score, features, n_clusters, model_id) AS INT) AS rank,
               CAST(row_number() OVER (
                   PARTITION BY features ORDER BY score, n_clusters, model_id
               ) AS INT) AS rank_in_features,
               CAST(round(score, 4) AS DOUBLE) AS score, model_id, features, algorithm, params, n_clusters, n_noise,
               calinski_harabasz, davies_bouldin, silhouette, vehicle_agreement, agreement_vehicles, vehicle_part,
               inertia
        FROM merged
        ORDER BY rank
    """,
}
