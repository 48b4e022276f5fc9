# Databricks notebook source
# MAGIC %md
# MAGIC # A tour of the tables
# MAGIC Which models are there, which one to trust, what is in its clusters. On Databricks: import this file, attach a
# MAGIC cluster with the `motorpool` wheel, and name the schema of your lake below. On a laptop:
# MAGIC `MOTORPOOL_LAKE=demo/lake python notebooks/tour.py`.

# COMMAND ----------

import os

from motorpool.config import LakeConfig
from motorpool.lake import Lake
from motorpool.session import build_session

spark = build_session()
location = os.environ.get("MOTORPOOL_LAKE", "demo/lake")
lake = Lake(spark, LakeConfig(path=location))
lake.register()

# COMMAND ----------
# MAGIC %md
# MAGIC ## The best model of each feature set

# COMMAND ----------

best = spark.sql("""
    SELECT rank, features, n_clusters, round(calinski_harabasz) AS calinski_harabasz,
           round(davies_bouldin, 2) AS davies_bouldin, round(vehicle_agreement, 3) AS vehicle_agreement, model_id
    FROM leaderboard WHERE rank_in_features = 1 ORDER BY rank
""")
best.show(truncate=False)

# COMMAND ----------
# MAGIC %md
# MAGIC ## What its clusters hold
# MAGIC Size, number of vehicles, and how far the photos lie from the centre.

# COMMAND ----------

model_id = best.first()["model_id"]
spark.sql(
    """
    SELECT cluster, count(*) AS photos, count(DISTINCT vehicle_id) AS vehicles, round(avg(distance), 2) AS mean_distance
    FROM assignments WHERE model_id = :model_id GROUP BY cluster ORDER BY cluster
    """,
    args={"model_id": model_id},
).show()

# COMMAND ----------
# MAGIC %md
# MAGIC ## The photos nearest each centre

# COMMAND ----------

spark.sql(
    """
    SELECT c.cluster, c.nth, i.path
    FROM (SELECT cluster, posexplode(exemplars) AS (nth, image_id) FROM clusters WHERE model_id = :model_id) AS c
    JOIN images AS i ON i.image_id = c.image_id
    WHERE c.nth < 3 ORDER BY c.cluster, c.nth
    """,
    args={"model_id": model_id},
).show(truncate=False)

# COMMAND ----------
# MAGIC %md
# MAGIC ## Models that are not ranked, and why

# COMMAND ----------

spark.sql("SELECT features, params['k'] AS k, status, reason FROM models WHERE status <> 'ok'").show(truncate=False)
