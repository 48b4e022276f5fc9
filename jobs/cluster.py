"""Cluster as a Spark job: models are fitted, scored and labelled.

    spark-submit --properties-file conf/spark/local.conf --py-files dist/motorpool.zip \\
        jobs/cluster.py --conf conf/sample.yaml --set case.path=DIR --set lake.path=DIR

Reads: images, feature_sets, features. Writes: models, labels, clusters.
"""

import sys

from motorpool.cli import main

if __name__ == "__main__":
    # Only a failure exits: some job runners (Databricks) take status 0 for one too.
    if status := main(["cluster", *sys.argv[1:]]):
        sys.exit(status)
