#!/usr/bin/env bash
# Builds the wheel, installs it in a fresh virtual environment and runs it from an empty directory.
# Usage: scripts/try_wheel.sh PYTHON (one that has the `build` package)
set -euo pipefail
python=$(realpath -s "${1:?the python to build with}")
cd "$(dirname "$0")/.."
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
"$python" -m build --wheel --outdir "$place/dist" . >"$place/build.log" || { cat "$place/build.log"; exit 1; }
"$python" -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check "$place"/dist/*.whl
mkdir "$place/empty"
cd "$place/empty"
"$place/venv/bin/metarun" --help >"$place/help"
head -3 "$place/help"
"$place/venv/bin/metarun" task=sinusoid train.steps=200 logger=none run.dir=run
test -s run/results.json
echo "the wheel works"
