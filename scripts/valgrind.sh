#!/bin/bash
# Kernel tests under valgrind's memcheck: reads and writes outside of what was allocated, and decisions
# made on memory that nobody has written, which the sanitizers do not see, end it with status 99.
#     PYTHON=.venv/bin/python scripts/valgrind.sh [PYTEST-ARGUMENTS...]
# Builds with MINIDL_DEBUG=ON into a temporary environment. Valgrind has no AVX-512, so this is the
# level x86-64-v3, or what MINIDL_ISA says.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
python=$(command -v "${PYTHON:-python3}")
work=$(mktemp -d -t minidl-valgrind.XXXXXX)
trap 'rm -rf "$work"' EXIT

if ! command -v valgrind >/dev/null; then
  echo "valgrind is not installed (Debian: apt-get install valgrind)" >&2
  exit 1
fi

"$python" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --config-settings=cmake.define.MINIDL_DEBUG=ON "$root[test]"

(($#)) || set -- test_products.py -k "test_products and float32 or every_optimizer and float32 and 61"
mkdir "$work/away"
cd "$work/away"
# Python's own allocator hands out parts of large blocks: memcheck must see each by itself.
PYTHONMALLOC=malloc OPENBLAS_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE=1 \
  MINIDL_ISA=${MINIDL_ISA:-x86-64-v3} \
  valgrind --quiet --error-exitcode=99 --suppressions="$root/scripts/valgrind.supp" \
  "$work/venv/bin/python" -P -m pytest -c "$root/pyproject.toml" --rootdir "$root" -q -x \
  -p no:cacheprovider "${@/#test_/$root/tests/test_}"
