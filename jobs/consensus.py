"""Consensus as a Spark job: clusterings that the best models of several feature sets agree on.

    spark-submit --properties-file conf/spark/local.conf --py-files dist/motorpool.zip \\
        jobs/consensus.py --conf conf/sample.yaml --set case.path=DIR --set lake.path=DIR

Reads: images, models, labels. Writes: models, labels, clusters, agreement.
"""

import sys

from motorpool.cli import main

if __name__ == "__main__":
    # Only a failure exits: some job runners (Databricks) take status 0 for one too.
    if status := main(["consensus", *sys.argv[1:]]):
        sys.exit(status)
