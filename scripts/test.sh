#!/usr/bin/env bash
# The same set-up plus the test extras, then style, types and tests. Arguments are passed on to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
EXTRAS=test
. scripts/setup.sh
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
exec .venv/bin/pytest "$@"
