"""What Spark's JVM needs to start, and why it does not."""
