"""A lake that grows: new images join it, get everything that its fitted numbers give them, and nothing is fitted again.

`incoming` brings images and descriptors in, `appends` knows which ones have come, `catch_up` gives them what the lake
holds of the others, and `drift` says how far they differ from these.
"""
