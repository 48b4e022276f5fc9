"""Outliers as a Spark job: every image scored by several methods, and by what they agree on.

    spark-submit --properties-file conf/spark/local.conf --py-files dist/motorpool.zip \\
        jobs/outliers.py --conf conf/sample.yaml --set case.path=DIR --set lake.path=DIR

Reads: images, descriptors, feature_sets, features, models, labels. Writes: outliers, outlier_reasons, outlier_methods.
"""

import sys

from motorpool.cli import main

if __name__ == "__main__":
    # Only a failure exits: some job runners (Databricks) take status 0 for one too.
    if status := main(["outliers", *sys.argv[1:]]):
        sys.exit(status)
