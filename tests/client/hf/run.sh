#!/usr/bin/env bash
# troupe.hf: with a stand-in for the cluster, and against real clusters of three expert nodes on the golden checkpoints.
# Makes its own environment in .venv-hf (torch and its libraries from PyPI: 3 GB). Needs a build.
#   tests/client/hf/run.sh [--no-install] [PYTEST ARGUMENTS...]      called by tests/run.sh --hf
set -euo pipefail
cd "$(dirname "$0")/../../.."
install=()
if [ "${1:-}" = --no-install ]; then
  install=(--no-install)
  shift
fi
venv=.venv-hf
here=tests/client/hf

# torch goes in without its dependencies (requirements.txt says why); the other packages bring theirs.
stamp=$(sha256sum "$here/requirements.txt" "$here/run.sh")
if [ "$(cat $venv/.complete 2>/dev/null)" != "$stamp" ]; then
  echo "==> installing torch and transformers into $venv (about 3 GB)"
  scripts/python_env.sh $venv "${install[@]}" -- filelock typing_extensions sympy networkx jinja2 fsspec setuptools
  $venv/bin/pip install --quiet --disable-pip-version-check --no-deps -r "$here/requirements.txt"
  $venv/bin/pip install --quiet --disable-pip-version-check transformers==4.57.3 safetensors numpy pytest pytest-timeout
  $venv/bin/python -c 'import torch; torch.ones(2) @ torch.ones(2)'
  printf '%s' "$stamp" >$venv/.complete
fi
$venv/bin/pip install --quiet --disable-pip-version-check ./client/python

cd "$here"
HF_HUB_OFFLINE=1 exec "$OLDPWD/$venv/bin/python" -m pytest "$@"
