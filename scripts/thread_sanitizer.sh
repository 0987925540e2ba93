#!/bin/bash
# The threaded program under ThreadSanitizer: threads that touch the same memory without an order, one
# of them writing, end the run with status 66.
#     PYTHON=.venv/bin/python scripts/thread_sanitizer.sh [PYTEST-ARGUMENTS...]
# Needs gcc with libtsan, or clang (CC=clang) with its runtime and libomp. Builds into a temporary
# environment. Where threads meet inside the program, they do so by atomic operations, which
# ThreadSanitizer follows; how OpenMP starts and ends a region it is told in `kernels/threads.pyx`.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
python=$(command -v "${PYTHON:-python3}")
work=$(mktemp -d -t minidl-tsan.XXXXXX)
trap 'rm -rf "$work"' EXIT

if [[ ${CC:-gcc} == *clang* ]]; then
  runtime=$("$CC" -print-file-name="libclang_rt.tsan-$(uname -m).so")
  [[ -e $runtime ]] || runtime=$("$CC" -print-file-name="libclang_rt.tsan.so")
else
  runtime=$("${CC:-gcc}" -print-file-name=libtsan.so)
fi
if [[ ! -e $runtime ]]; then
  echo "no ThreadSanitizer: install gcc with libtsan (Debian: apt-get install gcc libtsan2)" >&2
  exit 1
fi

"$python" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --config-settings=cmake.define.MINIDL_SANITIZE=thread \
  "$root[test]"

# It wants its memory where old kernels put it.
steady=()
! setarch -R true 2>/dev/null || steady=(setarch -R)

(($#)) || set -- test_threads.py test_program.py test_products.py test_rows.py test_ahead.py \
  test_layers.py test_losses.py test_optimizers.py
mkdir "$work/away"
cd "$work/away"
printf '%s\n' "race_top:_omp_fn" > suppressions  # libgomp hands a region its arguments, in plain memory
LD_PRELOAD=$runtime OPENBLAS_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE=1 \
  TSAN_OPTIONS="suppressions=$PWD/suppressions ignore_noninstrumented_modules=1 ${TSAN_OPTIONS:-}" \
  "${steady[@]}" "$work/venv/bin/python" -m pytest -c "$root/pyproject.toml" --rootdir "$root" -q -x \
  -p no:cacheprovider "${@/#test_/$root/tests/test_}"
