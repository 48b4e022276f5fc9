"""Files of tables that tasks read and write by Arrow, without Spark's rows, where all machines see the folder."""
