#!/usr/bin/env bash
# Says what is missing before anything is installed: Python 3.11 and Java 17, or newer.
set -u
fail() { echo "motorpool: $1" >&2; exit 1; }

python=${PYTHON:-python3}
command -v "$python" >/dev/null || fail "no $python found. Debian: apt-get install python3 python3-venv"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  fail "$("$python" --version) found, Python 3.11 or newer is needed (PYTHON=/path/to/python3.11 make ... chooses one). Debian: apt-get install python3.11 python3.11-venv"
"$python" -c 'import ensurepip, venv' 2>/dev/null || fail "$python has no venv. Debian: apt-get install python3-venv"

java=${JAVA_HOME:+$JAVA_HOME/bin/}java
command -v "$java" >/dev/null || fail "no Java found ($java), Spark needs Java 17. Debian: apt-get install openjdk-17-jre-headless"
version=$("$java" -version 2>&1 | sed -nE 's/.*version "(1\.)?([0-9]+).*/\2/p' | head -n 1)
[ "${version:-0}" -ge 17 ] || fail "Java ${version:-of an unknown version} found ($java), Spark 4 needs Java 17. Debian: apt-get install openjdk-17-jre-headless, then set JAVA_HOME"
