"""The report: bounded reads of the lake, figures of what they hold, and a folder that opens without a network.

Its modules `build`, `figures`, `map_section` and `model_section` draw, and can be imported only where the packages
of the extra `report` are installed.
"""

from motorpool.errors import require_packages

#: What the report is drawn with, beyond what every command needs.
PACKAGES = ("matplotlib", "plotly", "jinja2")


def check_packages() -> None:
    """EnvironmentMissingError, which says what to install, where a package that the report is drawn with is missing."""
    require_packages("the report", PACKAGES)
