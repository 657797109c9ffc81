#!/usr/bin/env bash
# From nothing to a report: installs everything into .venv and runs the quickstart campaign. Safe to run twice.
# Arguments are passed on to scripts/run_campaign.py.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/setup.sh
exec .venv/bin/python scripts/run_campaign.py --preset quickstart "$@"
