"""The report as a Spark job: a folder of pages and pictures that opens in any browser, without a network.

    spark-submit --properties-file conf/spark/local.conf --py-files dist/motorpool.zip \\
        jobs/report.py --conf conf/sample.yaml --set case.path=DIR --set lake.path=DIR

Reads: every table but descriptors, features and sources. Writes no table: the folder `report` beside the lake.
"""

import sys

from motorpool.cli import main

if __name__ == "__main__":
    # Only a failure exits: some job runners (Databricks) take status 0 for one too.
    if status := main(["report", *sys.argv[1:]]):
        sys.exit(status)
