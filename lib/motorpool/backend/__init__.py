"""CPU and GPU: the one place that knows which library does the arithmetic.

`seam` has what can be chosen. The GPU's kernels are written against an array module of NumPy's interface, so the tests
run them with NumPy itself; `device` and `layouts` alone import cupy and cuML, and only inside a task that uses them.
"""
