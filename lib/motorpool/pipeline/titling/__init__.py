"""Titles of clusters: made from the evidence that the lake keeps, and those that people give."""
