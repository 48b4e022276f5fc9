"""The whole pipeline as a Spark job: case in, labelled tables out.

    spark-submit --properties-file conf/spark/local.conf --py-files dist/motorpool.zip \\
        jobs/pipeline.py --conf conf/sample.yaml --set case.path=DIR --set lake.path=DIR

Reads: the case. Writes: every table.
"""

import sys

from motorpool.cli import main

if __name__ == "__main__":
    # Only a failure exits: some job runners (Databricks) take status 0 for one too.
    if status := main(["run", *sys.argv[1:]]):
        sys.exit(status)
