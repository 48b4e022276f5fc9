"""Quality of photos as a Spark job: light, contrast, sharpness, information and frame of every photo.

    spark-submit --properties-file conf/spark/local.conf --py-files dist/motorpool.zip \\
        jobs/quality.py --conf study.yaml --set case.path=DIR --set lake.path=DIR

Reads: images, and the photos. Writes: photo_quality, photo_surveys.
"""

import sys

from motorpool.cli import main

if __name__ == "__main__":
    # Only a failure exits: some job runners (Databricks) take status 0 for one too.
    if status := main(["quality", *sys.argv[1:]]):
        sys.exit(status)
