#!/usr/bin/env bash
# The Python client against a fake router, in an environment of its own with the client installed as users install it.
#   tests/client/python/run.sh [--no-install]      needs no build and no cluster
set -euo pipefail
cd "$(dirname "$0")/../../.."
scripts/python_env.sh .venv-client ${1:+"$1"} -- ./client/python pytest ml_dtypes
cd tests/client/python
exec ../../../.venv-client/bin/python -m pytest
