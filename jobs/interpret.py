"""What is in the clusters, as a Spark job: photos that stand for them, titles and a few sentences.

    spark-submit --properties-file conf/spark/local.conf --py-files dist/motorpool.zip \\
        jobs/interpret.py --conf conf/sample.yaml --set case.path=DIR --set lake.path=DIR

Reads: images, features, models, labels, clusters, and the case's photos. Writes: cluster_members, appearance,
interpretations, and title and description in clusters.
"""

import sys

from motorpool.cli import main

if __name__ == "__main__":
    # Only a failure exits: some job runners (Databricks) take status 0 for one too.
    if status := main(["interpret", *sys.argv[1:]]):
        sys.exit(status)
