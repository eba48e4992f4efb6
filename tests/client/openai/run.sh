#!/usr/bin/env bash
# The official openai client against the router's doors with a fake engine, in an environment of its own.
#   tests/client/openai/run.sh [--no-install] [PYTEST ARGUMENTS]      needs a build (openai_door_server)
set -euo pipefail
cd "$(dirname "$0")/../../.."
install=()
if [ "${1:-}" = --no-install ]; then
  install=(--no-install)
  shift
fi
scripts/python_env.sh .venv-openai "${install[@]}" -- openai==3.57.0 pytest pytest-timeout
cd tests/client/openai
exec ../../../.venv-openai/bin/python -m pytest -p no:cacheprovider "$@"
