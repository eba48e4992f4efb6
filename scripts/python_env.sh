#!/usr/bin/env bash
# Makes a virtual environment (with Debian's python3-venv, installed when missing) and installs packages into it.
# Does nothing when the same packages, and the same sources of local ones, are installed already.
#   scripts/python_env.sh FOLDER [--no-install] -- PACKAGE...     a package may be a local folder
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$1
shift
install=yes
if [ "${1:-}" = --no-install ]; then
  install=no
  shift
fi
[ "${1:-}" = -- ] && shift

# The python3 of Debian if there is one: its venv module is what the package below provides.
python=/usr/bin/python3
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
  if [ "$install" = yes ]; then
    scripts/install_packages.sh python
  else
    python=$(command -v python3)
  fi
fi

# A stamp over names and over the files of local packages says whether anything has to be done.
stamp=$(
  printf '%s\n' "$@"
  for package in "$@"; do
    [ -d "$package" ] && find "$package" -type f -not -name '*.pyc' -not -path '*/build/*' -not -path '*.egg-info/*' -print0 | sort -z | xargs -0 sha256sum
  done || true
)
if [ -x "$folder/bin/python" ] && [ "$(cat "$folder/.installed" 2>/dev/null)" = "$stamp" ]; then
  echo "==> $folder is up to date"
  exit 0
fi
[ -x "$folder/bin/python" ] || "$python" -m venv "$folder"
echo "==> installing into $folder: $*"
"$folder/bin/pip" install --quiet --disable-pip-version-check --upgrade "$@"
printf '%s' "$stamp" >"$folder/.installed"
