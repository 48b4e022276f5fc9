"""Labels as a Spark job: from the looks of people to a value of every attribute for all images.

    spark-submit --properties-file conf/spark/local.conf --py-files dist/motorpool.zip \\
        jobs/label.py --conf conf/sample.yaml --set case.path=DIR --set lake.path=DIR

Reads: images, annotations, feature_sets, features, models, labels, outliers, outlier_methods. Writes: image_labels,
label_sets.
"""

import sys

from motorpool.cli import main

if __name__ == "__main__":
    # Only a failure exits: some job runners (Databricks) take status 0 for one too.
    if status := main(["label", *sys.argv[1:]]):
        sys.exit(status)
