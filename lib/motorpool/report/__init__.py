"""The report: bounded reads of the lake, figures of what they hold, and a folder that opens without a network.

Its modules `build`, `figures`, `map_section` and `model_section` draw, and can be imported only where the packages
of the extra `report` are installed.
"""

import importlib.util

from motorpool.errors import EnvironmentMissingError

_PACKAGES = ("matplotlib", "plotly", "jinja2")


def check_packages() -> None:
    """EnvironmentMissingError, which says what to install, where a package that the report is drawn with is missing."""
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise EnvironmentMissingError(
            f"the report needs {', '.join(missing)}, not installed here: pip install {' '.join(missing)}"
        )
