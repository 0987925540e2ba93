#!/bin/bash
# The threaded program under ThreadSanitizer: fails where threads touch the same memory without an
# order, one of them writing.
#     PYTHON=.venv/bin/python scripts/thread_sanitizer.sh [PYTEST-ARGUMENTS...]
# Needs gcc with libtsan. Builds into a temporary environment. Inside the program threads meet by atomic
# operations, which ThreadSanitizer follows; how OpenMP starts and ends a region it is told in
# kernels/threads.pyx.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
python=$(command -v "${PYTHON:-python3}")
work=$(mktemp -d -t minidl-tsan.XXXXXX)
trap 'rm -rf "$work"' EXIT

runtime=$(gcc -print-file-name=libtsan.so)
if [[ ! -e $runtime ]]; then
  echo "gcc has no ThreadSanitizer (Debian: apt-get install gcc libtsan2)" >&2
  exit 1
fi

"$python" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --config-settings=cmake.define.MINIDL_SANITIZE=thread \
  "$root[test]"

# It wants its memory where the addresses are not random.
steady=()
! setarch -R true 2>/dev/null || steady=(setarch -R)

# Left out: a test that evaluates a model while another thread trains it, which is a race by intent.
(($#)) || set -- test_threads.py test_program.py test_products.py test_gradient_monitor.py \
  -k "not float64 and not cannot_train_with_one_trainer"
mkdir "$work/away"
cd "$work/away"
echo "race_top:_omp_fn" > suppressions  # libgomp hands a region its arguments in plain memory
status=0
LD_PRELOAD=$runtime OPENBLAS_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE=1 \
  TSAN_OPTIONS="suppressions=$PWD/suppressions ignore_noninstrumented_modules=1 log_path=$PWD/races" \
  "${steady[@]}" "$work/venv/bin/python" -P -m pytest -c "$root/pyproject.toml" --rootdir "$root" \
  -q -x -p no:cacheprovider "${@/#test_/$root/tests/test_}" || status=$?
if compgen -G 'races.*' >/dev/null; then
  cat races.*
  status=1
fi
exit "$status"
