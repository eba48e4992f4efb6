#!/usr/bin/env bash
# troupe.hf against real clusters: for each family a cluster of three expert nodes on the golden checkpoint, and the model of
# transformers with its experts taken out. Makes its own environment in .venv-hf (torch from PyPI: 3 GB). Needs a build.
#   tests/client/hf/run.sh [FAMILY...]      called by tests/run.sh --hf
set -euo pipefail
cd "$(dirname "$0")/../../.."
families=("$@")
[ $# -gt 0 ] || families=(mixtral qwen2_moe qwen3_moe olmoe)
venv=.venv-hf
here=tests/client/hf
export HF_HUB_OFFLINE=1

# torch goes in without its dependencies (requirements.txt says why); the others bring theirs.
stamp=$(sha256sum "$here/requirements.txt" "$here/run.sh")
if [ "$(cat $venv/.complete 2>/dev/null)" != "$stamp" ]; then
  echo "==> installing torch and transformers into $venv (about 3 GB)"
  scripts/python_env.sh $venv -- filelock typing_extensions sympy networkx jinja2 fsspec setuptools
  $venv/bin/pip install --quiet --disable-pip-version-check --no-deps -r "$here/requirements.txt"
  $venv/bin/pip install --quiet --disable-pip-version-check transformers==4.57.3 safetensors numpy pytest
  $venv/bin/python -c 'import torch; torch.ones(2) @ torch.ones(2)'
  printf '%s' "$stamp" >$venv/.complete
fi
$venv/bin/pip install --quiet --disable-pip-version-check ./client/python

echo "==> troupe.hf with a stand-in for the cluster"
(cd "$here" && "$OLDPWD/$venv/bin/python" -m pytest)

work=$(mktemp -d)
stop() {
  build/bin/troupe down --data-dir "$work/data" >/dev/null 2>&1 || true
  rm -rf "$work"
}
trap stop EXIT
failed=()
for family in "${families[@]}"; do
  echo "==> $family in a cluster of three expert nodes"
  rm -rf "$work/data"
  build/bin/troupe up --model "tests/golden/dev/$family" --expert-nodes 3 --dtype f32 --data-dir "$work/data" --detach
  $venv/bin/python "$here/check_cluster.py" "$family" "$work/data" || failed+=("$family")
  build/bin/troupe down --data-dir "$work/data"
done
if [ ${#failed[@]} -gt 0 ]; then
  echo "troupe.hf: wrong for ${failed[*]}"
  exit 1
fi
echo "troupe.hf: all ${#families[@]} families give the recorded logits and greedy tokens"
