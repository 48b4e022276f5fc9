#!/usr/bin/env bash
# The GPUs of this machine, as Spark asks for them: {"name": "gpu", "addresses": ["0", "1"]}
# Not yet seen running on a machine with a GPU; the test puts a stand-in for nvidia-smi in front of it.
set -euo pipefail
indices=$(nvidia-smi --query-gpu=index --format=csv,noheader)
addresses=$(sed 's/[^0-9]//g; /^$/d; s/.*/"&"/' <<<"$indices" | paste -sd, -)
printf '{"name": "gpu", "addresses": [%s]}\n' "$addresses"
