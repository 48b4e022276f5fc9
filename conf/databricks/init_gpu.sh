#!/bin/bash
# Cluster init script: the RAPIDS plugin for Spark SQL, and RAPIDS' Python libraries, on runtime 17.3 ML (GPU, CUDA 12).
# The runtime's own CUDA fits: none is installed here. Versions as in setup.py; jars write the month with two digits.
# Put the plugin's jar (Maven: com.nvidia:rapids-4-spark_2.13, classifier cuda12) into the folder first, once.
# Not yet seen running.
set -euo pipefail
PLUGIN=26.06.0
JARS=${MOTORPOOL_JARS:-/Volumes/main/motorpool/files/jars}
cp "$JARS/rapids-4-spark_2.13-${PLUGIN}-cuda12.jar" /databricks/jars/
/databricks/python/bin/pip install --no-cache-dir "cuml-cu12==26.6.*" "cupy-cuda12x>=13.6" "spark-rapids-ml==26.6.*"
