"""The report: bounded reads of the lake, figures of what they hold, and a folder that opens without a network."""
