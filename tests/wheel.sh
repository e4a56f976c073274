#!/usr/bin/env bash
# What a user gets: the distributions built, checked, and tried from another folder.
#   tests/wheel.sh PYTHON    PYTHON has the extra `test`
# The source distribution is unpacked and some of its tests run there; the wheel is installed alone
# in a fresh environment, where the optional packages are missing and say so.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$(realpath --no-symlinks "$1")
root=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_CONSTRAINT="$root/constraints.txt"
unset PYTHONPATH

"$python" -m build --outdir "$work/dist" . >"$work/build.log" 2>&1 || { cat "$work/build.log"; exit 1; }
"$python" -m twine check --strict "$work"/dist/*

mkdir "$work/source"
tar -xzf "$work"/dist/*.tar.gz -C "$work/source" --strip-components=1
(cd "$work/source" && PYTHONPATH="$PWD" OMP_NUM_THREADS=1 "$python" -m pytest -q -p no:cacheprovider \
  -k "not what_an_extra_is_for" \
  tests/test_house.py tests/test_bounds.py tests/test_imports.py tests/test_packaging.py)

"$python" -m venv "$work/fresh"
"$work/fresh/bin/python" -m pip install --quiet "$work"/dist/*.whl
mkdir "$work/elsewhere"
cd "$work/elsewhere"
"$work/fresh/bin/structured-dro" version
"$work/fresh/bin/python" -W error "$root/tests/wheel_smoke.py" 330
