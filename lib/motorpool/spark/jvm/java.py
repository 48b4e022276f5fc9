"""The Java that a session of this process would start; looked for without PySpark, which may be missing too."""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from motorpool.errors import EnvironmentMissingError

log = logging.getLogger(__name__)

#: The oldest Java that Spark 4 runs on.
_OLDEST = 17


def takes_pattern(pattern: str) -> bool | None:
    """Whether Java takes a regular expression; None where that is not known, for want of Java.

    Asks the JVM of this process, or a small one that starts for the question and takes a fraction of a second.
    """
    from py4j.java_gateway import GatewayParameters, JavaGateway, launch_gateway
    from py4j.protocol import Py4JError
    from pyspark import SparkContext

    if SparkContext._gateway is not None:
        return _compiles(SparkContext._gateway.jvm, pattern)
    try:
        java, _ = check_java()
        port, token = launch_gateway(die_on_exit=True, java_path=java, jarpath=_py4j_jar(), enable_auth=True)
        gateway = JavaGateway(gateway_parameters=GatewayParameters(port=port, auth_token=token))
    except (EnvironmentMissingError, OSError, ValueError, Py4JError) as exc:
        log.debug("no Java to ask for a pattern: %s", exc)
        return None
    try:
        return _compiles(gateway.jvm, pattern)
    finally:
        gateway.shutdown()


def _compiles(jvm: Any, pattern: str) -> bool:
    from py4j.protocol import Py4JJavaError
    from pyspark.errors import IllegalArgumentException

    try:
        jvm.java.util.regex.Pattern.compile(pattern)
    except (Py4JJavaError, IllegalArgumentException):
        # The second is what PySpark, once it has a session, makes of the first.
        return False
    return True


def _py4j_jar() -> str:
    """The jar beside PySpark's; ValueError where a Spark without it is used."""
    import pyspark

    places = [
        Path(pyspark.__file__).parent,
        *([Path(os.environ["SPARK_HOME"])] if os.environ.get("SPARK_HOME") else []),
    ]
    jars = [jar for place in places for jar in sorted((place / "jars").glob("py4j-*.jar"))]
    if not jars:
        raise ValueError("no jar of py4j beside PySpark")
    return str(jars[0])


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
