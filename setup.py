"""Packaging for Motorpool: distributed clustering of image descriptors on Spark."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

setup(
    name="motorpool",
    version="0.1.0",
    description="Cluster image descriptors on Spark and write them back as labelled tables",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    package_dir={"": "lib"},
    packages=find_packages("lib"),
    package_data={"motorpool": ["py.typed", "report/templates/*.j2", "report/static/*", "review/static/*"]},
    # Ranges say what the code is written for; constraints.txt pins what is tested.
    install_requires=[
        "click>=8.1",
        "deltalake>=1.1",
        "duckdb>=2.0,<3",
        "numba>=0.61",
        "numpy>=2.0",
        "pandas>=2.2,<3",
        "pyarrow>=17",
        "pydantic>=2.7",
        "PyYAML>=6.0",
        "rich>=13.7",
        "scikit-learn>=1.5",
        "scipy>=1.13",
        "sqlglot>=30,<31",
        "threadpoolctl>=3.5",
        "Pillow>=10.3",
        # Finds the processes that end with a command.
        "psutil>=6",
    ],
    extras_require={
        # Databricks and most clusters bring their own Spark, so it is an extra here.
        "spark": ["pyspark>=4.0.0,<4.1", "delta-spark>=4.0.0,<4.1"],
        # `accelerator: gpu`, for drivers of CUDA 12 and of CUDA 13. Not in constraints.txt: no test has run them yet.
        "gpu": ["cuml-cu12==26.6.*", "cupy-cuda12x>=13.6", "spark-rapids-ml==26.6.*"],
        "gpu-cu13": ["cuml-cu13==26.6.*", "cupy-cuda13x>=13.6", "spark-rapids-ml==26.6.*"],
        # Maps of the images, and the pages and pictures of the report.
        "report": ["jinja2>=3.1", "matplotlib>=3.9", "openTSNE>=1.0.2", "plotly>=6.0", "umap-learn>=0.5.7"],
        # Descriptors in HDF5 files.
        "hdf5": ["h5py>=3.11"],
        # Descriptors that are computed from photos: networks (onnxruntime-gpu in its place on GPUs), and gradients.
        "onnx": ["onnx>=1.17", "onnxruntime>=1.20"],
        "hog": ["scikit-image>=0.24"],
        # The notebooks: JupyterLab, and the library that they draw with.
        "notebooks": ["jupyterlab>=4.2", "plotly>=6.0"],
        # The page on which people look at photos.
        "review": ["starlette>=0.40", "uvicorn>=0.30"],
        "docs": ["mkdocs>=1.6,<2", "mkdocs-material>=9.5"],
        "dev": [
            "h5py>=3.11",
            "hdbscan>=0.8.40",
            "import-linter>=2.3",
            "impyla>=0.21",
            "ipykernel>=6.29",
            "kaleido>=1.3",
            "nbclient>=0.10",
            "onnx>=1.17",
            "onnxruntime>=1.20",
            "playwright>=1.50",
            "pre-commit>=4",
            "pytest>=8",
            "pytest-xdist>=3.7",
            "ruff>=0.6",
            "scikit-image>=0.24",
            "mypy>=1.11",
            "pandas-stubs",
            "types-PyYAML",
            "build>=1.2",
        ],
    },
    entry_points={"console_scripts": ["motorpool = motorpool.__main__:program"]},
)
