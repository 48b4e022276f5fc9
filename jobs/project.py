"""Projections as a Spark job: maps of all images in two or three dimensions.

    spark-submit --properties-file conf/spark/local.conf --py-files dist/motorpool.zip \\
        jobs/project.py --conf conf/sample.yaml --set case.path=DIR --set lake.path=DIR

Reads: feature_sets, features. Writes: projections, projection_methods.
"""

import sys

from motorpool.cli import main

if __name__ == "__main__":
    # Only a failure exits: some job runners (Databricks) take status 0 for one too.
    if status := main(["project", *sys.argv[1:]]):
        sys.exit(status)
