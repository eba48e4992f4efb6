#!/usr/bin/env bash
# From a bare Debian 12 to a running cluster: installs what is missing, builds, starts a coordinator, three expert nodes
# and a router on the checkpoint that the repository ships, sends one batch through every MoE layer from Python and
# compares the answers with the reference. As root or with sudo; can be run again.
#   ./quickstart.sh [--no-install]
set -euo pipefail
cd "$(dirname "$0")"
model=tests/golden/dev/qwen2_moe
data_dir=${TROUPE_QUICKSTART_DIR:-$PWD/build/quickstart}
install_flag=${1:-}

step() { printf '\n==> %s\n' "$*"; }

step "1/5 building Troupe (a few minutes the first time)"
scripts/build.sh $install_flag

step "2/5 making a Python environment in .venv and installing the client"
scripts/python_env.sh .venv $install_flag -- ./client/python

step "3/5 starting a cluster on $model"
stop_cluster() { build/bin/troupe down --data-dir "$data_dir" || true; }
trap stop_cluster EXIT
build/bin/troupe down --data-dir "$data_dir" 2>/dev/null
build/bin/troupe up --model "$model" --expert-nodes 3 --dtype f32 --data-dir "$data_dir" --detach
build/bin/troupe node list --data-dir "$data_dir"

step "4/5 sending 24 rows through every MoE layer, and comparing with what transformers computed"
.venv/bin/python scripts/compare_with_golden.py "$model" "$data_dir"

step "5/5 stopping the cluster"
trap - EXIT
build/bin/troupe down --data-dir "$data_dir"
cat <<'END'

It works. Next:
  build/bin/troupe up --model DIR      your own checkpoint (Mixtral, Qwen, OLMoE, DeepSeek, gpt-oss, Switch, V-MoE)
  client/python/README.md              the Python client, and attaching a transformers model
  ./tests/run.sh                       every test
END
