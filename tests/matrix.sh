#!/usr/bin/env bash
# The core tests on other arithmetic, older packages and newer interpreters; no torch needed.
#   tests/matrix.sh kernels PYTHON [KERNEL ...]  every OpenBLAS kernel with 1 and 2 threads
#   tests/matrix.sh oldest PYTHON                the oldest versions that pyproject.toml allows
#   tests/matrix.sh extras PYTHON [EXTRA ...]    every extra alone with its oldest versions
#   tests/matrix.sh interpreters                 Python 3.12 and 3.13, where there are
# MATRIX_QUICK=1: only the files that rest on linear algebra; MATRIX_THREADS: other than "1 2".
set -euo pipefail
cd "$(dirname "$0")/.."
mapfile -t core < tests/core.txt
files=(tests dro_core)
if [ -n "${MATRIX_QUICK:-}" ]; then # what rests on linear algebra, for every change
  files=()
  for name in bounds certificates entropic finite_support matrix_free operators spectrum structures \
    worst_case; do
    files+=("tests/test_$name.py")
  done
fi
core=(-q -m "not slow" -p no:cacheprovider --numprocesses auto "${core[@]}" "${files[@]}")
export PIP_DISABLE_PIP_VERSION_CHECK=1

fresh() { # interpreter, constraints: an environment with the core's dependencies
  local place
  place=$(mktemp -d)
  "$1" -m venv "$place"
  "$place/bin/python" -m pip install --quiet --constraint "$2" '.[testing,validation]' pytest pytest-xdist >&2
  echo "$place"
}

kernels() {
  local python=$1 kernel threads used seen=""
  shift
  for kernel in "${@:-Haswell SkylakeX Zen Prescott}"; do
    for kernel in $kernel; do
      used=$(OPENBLAS_CORETYPE=$kernel "$python" -c 'import numpy, threadpoolctl
print(next((p["architecture"] for p in threadpoolctl.threadpool_info()
            if p.get("internal_api") == "openblas"), "none"))') || used="a crash"
      if [ "$used" = none ] || [ "$used" = "a crash" ] || [[ " $seen " == *" $used "* ]]; then
        echo "kernel $kernel: skipped, OpenBLAS runs $used for it here"
        continue
      fi
      seen+=" $used"
      for threads in ${MATRIX_THREADS:-1 2}; do
        echo "kernel $kernel (OpenBLAS runs $used), $threads BLAS thread(s)"
        OPENBLAS_CORETYPE=$kernel OPENBLAS_NUM_THREADS=$threads OMP_NUM_THREADS=$threads \
          "$python" -m pytest "${core[@]}"
      done
    done
  done
}

oldest() {
  local place
  place=$(fresh "$1" constraints-oldest.txt)
  echo "oldest versions"
  OPENBLAS_NUM_THREADS=1 "$place/bin/python" -m pytest "${core[@]}"
  rm -rf "$place"
}

extras() { # no test tools in these environments: what a user has who asked for one extra
  local python=$1 extra place
  shift
  for extra in ${@:-transport plot reference validation files testing torch metrics docs}; do
    place=$(mktemp -d)
    "$python" -m venv "$place"
    "$place/bin/python" -m pip install --quiet --constraint constraints-oldest.txt ".[$extra]"
    "$place/bin/python" tests/extras.py "$extra"
    rm -rf "$place"
  done
}

interpreters() {
  local version name place
  for version in 3.12 3.13; do
    name=python$version
    if ! "$name" --version >/dev/null 2>&1; then # pyenv's shims answer for the chosen version only
      name=$(ls "${PYENV_ROOT:-$HOME/.pyenv}/versions"/"$version".*/bin/"$name" 2>/dev/null | tail -1 || true)
    fi
    if [ -z "$name" ]; then
      echo "python$version: skipped, not found"
      continue
    fi
    place=$(fresh "$name" constraints.txt)
    echo "$("$name" --version)"
    OPENBLAS_NUM_THREADS=1 "$place/bin/python" -m pytest "${core[@]}"
    rm -rf "$place"
  done
}

"$@"
