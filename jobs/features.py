"""Features as a Spark job: feature sets are fitted and applied.

    spark-submit --properties-file conf/spark/local.conf --py-files dist/motorpool.zip \\
        jobs/features.py --conf conf/sample.yaml --set case.path=DIR --set lake.path=DIR

Reads: sources, descriptors, images. Writes: feature_sets, features.
"""

import sys

from motorpool.cli import main

if __name__ == "__main__":
    # Only a failure exits: some job runners (Databricks) take status 0 for one too.
    if status := main(["features", *sys.argv[1:]]):
        sys.exit(status)
