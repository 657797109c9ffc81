#!/usr/bin/env bash
# The same set-up plus the test extras, then style, types and tests. Arguments are passed on to pytest.
# VLLM=1 also makes .venv-vllm (4 GB), without which the tests of the real vLLM are skipped.
set -euo pipefail
cd "$(dirname "$0")/.."
EXTRAS=test
. scripts/setup.sh
[ -z "${VLLM:-}" ] || bash scripts/vllm_env.sh
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
exec .venv/bin/pytest "$@"
