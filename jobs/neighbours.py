"""Neighbours as a Spark job: the nearest images of every image, exactly.

    spark-submit --properties-file conf/spark/local.conf --py-files dist/motorpool.zip \\
        jobs/neighbours.py --conf study.yaml --set case.path=DIR --set lake.path=DIR

Reads: feature_sets, features. Writes: neighbours, neighbour_searches.
"""

import sys

from motorpool.cli import main

if __name__ == "__main__":
    # Only a failure exits: some job runners (Databricks) take status 0 for one too.
    if status := main(["neighbours", *sys.argv[1:]]):
        sys.exit(status)
