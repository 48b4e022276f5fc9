"""New images added to a lake as a Spark job: their vectors, labels, outlier scores and attributes; nothing is fitted.

    spark-submit --properties-file conf/spark/local.conf --py-files dist/motorpool.zip \\
        jobs/append.py --conf study.yaml --case DIR

Reads: models, parameters, feature_sets, label_sets, outlier_methods, sources. Writes: images, descriptors, features,
labels, outliers, outlier_reasons, image_labels, drift, appends.
"""

import sys

from motorpool.cli import main

if __name__ == "__main__":
    # Only a failure exits: some job runners (Databricks) take status 0 for one too.
    if status := main(["append", *sys.argv[1:]]):
        sys.exit(status)
