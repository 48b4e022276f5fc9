"""New images labelled as a Spark job: a model of the lake, a new case, one file of labels.

    spark-submit --properties-file conf/spark/local.conf --py-files dist/motorpool.zip \\
        jobs/assign.py --lake DIR --case DIR --out labels.parquet

Reads: models, parameters, feature_sets, sources; for DBSCAN and HDBSCAN features and labels too. Writes: the file.
"""

import sys

from motorpool.cli import main

if __name__ == "__main__":
    # Only a failure exits: some job runners (Databricks) take status 0 for one too.
    if status := main(["assign", *sys.argv[1:]]):
        sys.exit(status)
