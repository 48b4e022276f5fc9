"""What can be known of a run before Spark starts: mistakes in config and case, what would run, what a lake holds."""
