"""Ingest as a Spark job: a case's files become tables.

    spark-submit --properties-file conf/spark/local.conf --py-files dist/motorpool.zip \\
        jobs/ingest.py --conf conf/sample.yaml --set case.path=DIR --set lake.path=DIR

Reads: the case. Writes: images, descriptors, bad_rows, sources.
"""

import sys

from motorpool.cli import main

if __name__ == "__main__":
    # Only a failure exits: some job runners (Databricks) take status 0 for one too.
    if status := main(["ingest", *sys.argv[1:]]):
        sys.exit(status)
