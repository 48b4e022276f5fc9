"""Duplicates as a Spark job: images that show the same, by photo files and by vectors, in pairs and in groups.

    spark-submit --properties-file conf/spark/local.conf --py-files dist/motorpool.zip \\
        jobs/duplicates.py --conf study.yaml --set case.path=DIR --set lake.path=DIR

Reads: images, feature_sets, features, and the photos. Writes: duplicates, duplicate_groups, duplicate_searches.
"""

import sys

from motorpool.cli import main

if __name__ == "__main__":
    # Only a failure exits: some job runners (Databricks) take status 0 for one too.
    if status := main(["duplicates", *sys.argv[1:]]):
        sys.exit(status)
