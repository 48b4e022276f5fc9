# Driver and executors of kubernetes.conf: Spark 4.0.2, Python with Motorpool, Delta's jars.
# Build from the repository's root, after `make package`. Not built yet.
FROM apache/spark:4.0.2-scala2.13-java17-python3-ubuntu
USER root
RUN apt-get update && apt-get install -y --no-install-recommends software-properties-common \
    && add-apt-repository -y ppa:deadsnakes/ppa && apt-get update \
    && apt-get install -y --no-install-recommends python3.11 python3.11-venv && rm -rf /var/lib/apt/lists/*
# Spark fetches packages the way it does everywhere; in the image they need not be fetched by every pod.
RUN /opt/spark/bin/spark-sql --master 'local[1]' --packages io.delta:delta-spark_2.13:4.0.1 \
        --conf spark.jars.ivy=/tmp/ivy --conf spark.sql.catalogImplementation=in-memory -e 'SELECT 1' \
    && cp /tmp/ivy/jars/io.delta_*.jar /opt/spark/jars/ && rm -r /tmp/ivy
COPY constraints.txt dist/motorpool-0.1.0-py3-none-any.whl /tmp/
# pyspark is the image's own; delta-spark is the Python side of the jars, without a second Spark.
RUN python3.11 -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir -c /tmp/constraints.txt /tmp/motorpool-0.1.0-py3-none-any.whl importlib_metadata \
    && /opt/venv/bin/pip install --no-cache-dir --no-deps delta-spark==4.0.1
COPY jobs /opt/motorpool/jobs
COPY conf /opt/motorpool/conf
ENV PYSPARK_PYTHON=/opt/venv/bin/python PYSPARK_DRIVER_PYTHON=/opt/venv/bin/python
USER spark
