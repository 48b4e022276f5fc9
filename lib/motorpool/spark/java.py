"""The Java that a session of this process would start; looked for without PySpark, which may be missing too."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from motorpool.errors import EnvironmentMissingError

#: The oldest Java that Spark 4 runs on.
_OLDEST = 17


def check_java() -> tuple[str, int]:
    """The path of `java` and its version; EnvironmentMissingError unless it is one that Spark 4 runs on."""
    advice = f"Spark 4 needs Java {_OLDEST}: apt-get install openjdk-17-jre-headless, or point JAVA_HOME at one"
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home) / "bin" / "java") if home else shutil.which("java")
    if java is None:
        raise EnvironmentMissingError(f"no `java` on the PATH and JAVA_HOME is not set. {advice}")
    try:
        # The path comes from the user's own environment, as it does for Spark itself.
        said = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=60, check=False)  # noqa: S603
    except OSError as exc:
        raise EnvironmentMissingError(f"{java} cannot be run: {exc}. {advice}") from exc
    text = said.stderr + said.stdout
    found = re.search(r'version "(?:1\.)?(\d+)', text)
    if found is None:
        raise EnvironmentMissingError(f"{java} -version printed no version ({text.strip()[:200]!r}). {advice}")
    if int(found[1]) < _OLDEST:
        raise EnvironmentMissingError(f"{java} is Java {found[1]}. {advice}")
    return java, int(found[1])
