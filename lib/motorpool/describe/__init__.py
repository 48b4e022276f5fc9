"""Descriptors computed from photos: by a network in an ONNX file, or by methods that need none."""
