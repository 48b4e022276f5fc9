"""Vehicles as a Spark job: each vehicle's label in the best models, by a vote of its photos, and which of them dissent.

    spark-submit --properties-file conf/spark/local.conf --py-files dist/motorpool.zip \\
        jobs/vehicles.py --conf conf/sample.yaml --set case.path=DIR --set lake.path=DIR

Reads: images, models, labels, vehicles. Writes: vehicles.
"""

import sys

from motorpool.cli import main

if __name__ == "__main__":
    # Only a failure exits: some job runners (Databricks) take status 0 for one too.
    if status := main(["vehicles", *sys.argv[1:]]):
        sys.exit(status)
