"""Motorpool: cluster image descriptors on Spark and write them back as labelled tables."""

__version__ = "0.1.0"
