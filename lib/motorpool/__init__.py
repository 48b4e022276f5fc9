"""Motorpool: cluster image descriptors on Spark and write them back as labelled tables."""

from motorpool.compile_cache import choose_folder

__version__ = "0.1.0"

# Before any module with compiled loops is imported.
choose_folder()
