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
    Table(
        "models",
        "model_id STRING, features STRING, algorithm STRING, params MAP<STRING,STRING>, n_clusters INT, "
        "n_noise BIGINT, calinski_harabasz DOUBLE, davies_bouldin DOUBLE, silhouette DOUBLE, "
        "vehicle_agreement DOUBLE, inertia DOUBLE, bic DOUBLE, aic DOUBLE, status STRING, reason STRING, n_iter INT, "
        "seconds DOUBLE, backend STRING, created_at TIMESTAMP",
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
    # One row per method, written last: a method without its row here is not in the lake.
    Table(
        "outlier_methods",
        "features STRING, method STRING, params MAP<STRING,STRING>, n_outliers BIGINT, threshold DOUBLE, "
        "seconds DOUBLE, created_at TIMESTAMP",
        "outliers",
    ),
)

TABLES: dict[str, Table] = {table.name: table for table in (*_ALL, *_OUTLIERS)}

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
    # Rank aggregation (Borda): every criterion becomes a fractional rank in (0, 1), 0.5 for a lone model,
    # and the ranks are averaged. Calinski-Harabasz and Davies-Bouldin depend on a feature set's width and
    # scale, so they are only ever ranked within it; vehicle agreement is ranked over all models.
    "leaderboard": """
        WITH scored AS (
            SELECT *,
                   rank() OVER (PARTITION BY features ORDER BY calinski_harabasz DESC) AS by_ch,
                   rank() OVER (PARTITION BY features ORDER BY davies_bouldin ASC) AS by_db,
                   rank() OVER (ORDER BY vehicle_agreement DESC NULLS LAST) AS by_va,
                   count(*) OVER (PARTITION BY features) AS n,
                   count(*) OVER () AS n_of_all
            FROM {models}
            WHERE status = 'ok'
        ), merged AS (
            SELECT *,
                   CASE WHEN vehicle_agreement IS NULL THEN (by_ch + by_db - 1) / (2 * n)
                        ELSE ((by_ch + by_db - 1) / n + (by_va - 0.5) / n_of_all) / 3 END AS score
            FROM scored
        )
        SELECT CAST(row_number() OVER (ORDER BY score, features, n_clusters, model_id) AS INT) AS rank,
               CAST(row_number() OVER (
                   PARTITION BY features ORDER BY score, n_clusters, model_id
               ) AS INT) AS rank_in_features,
               CAST(round(score, 4) AS DOUBLE) AS score, model_id, features, algorithm, params, n_clusters, n_noise,
               calinski_harabasz, davies_bouldin, silhouette, vehicle_agreement, inertia
        FROM merged
        ORDER BY rank
    """,
}
