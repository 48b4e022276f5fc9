"""Why Spark did not start, told from what its JVM has logged."""

from __future__ import annotations

import re

DELTA_PACKAGE = "io.delta:delta-spark_2.13:4.0.1"

#: Reasons as the log has them, and what to do; the first that is found counts.
_REASONS = (
    (
        r"(?i)unresolved dependenc(?:y|ies)",
        f"Delta's jars ({DELTA_PACKAGE}) or others of spark.jars.packages could not be fetched from Maven Central: "
        "check the network or proxy, set spark.jars.repositories to a mirror, or use `lake.format: parquet`",
    ),
    (
        r"[^\n]*basedir must be absolute[^\n]*|"
        r"[^\n]*ivy[^\n]*(?:No such file|denied|Read-only|[Nn]ot a directory|can't be|cannot be)[^\n]*",
        "Ivy, which fetches Delta's jars, needs a folder that can be written: set spark.jars.ivy to one, e.g. --set "
        "spark.jars.ivy=/tmp/ivy, or use `lake.format: parquet`",
    ),
    (
        r"Invalid (?:maximum|initial) heap size[^\n]*|Could not reserve enough space[^\n]*|"
        r"[^\n]*insufficient memory[^\n]*",
        "set spark.driver.memory to less than this machine has, as a number and a unit, e.g. 2g",
    ),
    (
        r"(?:Unrecognized|Invalid|Conflicting|Improperly specified|Missing)[^\n]* option[^\n]*",
        "look at spark.driver.extraJavaOptions, and at JAVA_TOOL_OPTIONS and SPARK_SUBMIT_OPTS in the environment",
    ),
    (
        r"\S*(?:BindException|UnknownHostException): [^\n]*",
        "set spark.driver.bindAddress and spark.driver.host, or SPARK_LOCAL_IP in the environment, to an address of "
        "this machine",
    ),
    (r"\S*Exception: [^\n]*(?i:master URL)[^\n]*", "set spark.master to local[*], or to the address of a cluster"),
    (
        r"[^\n]*Failed to create (?:a temp|local) dir[^\n]*|[^\n]*No space left on device[^\n]*",
        "set spark.local.dir to a folder that can be written and has space",
    ),
)
_ERROR = re.compile(r"^(?:Exception in thread \S+ |Caused by: |Error: )*(\S*(?:Exception|Error): [^\n]+)", re.MULTILINE)


def why_not(log_text: str) -> str:
    """Why Spark did not start, and what to do, in one sentence; by default the last error that the log names."""
    for pattern, advice in _REASONS:
        found = re.search(pattern, log_text)
        if found:
            cause = found[0].strip().removeprefix('Exception in thread "main" ')
            return f"{cause[:300]}: {advice}"
    said = _ERROR.findall(log_text)
    return str(said[-1]).strip()[:300] if said else "its log names no error"
