# Sourced by quickstart.sh and test.sh: makes .venv with pinned versions and sees to bubblewrap. Safe to run again.
# shellcheck shell=bash
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PYTHON=${PYTHON:-python3}
EXTRAS=${EXTRAS:-}

say() { printf '\033[1m%s\033[0m\n' "$*"; }
stop() { printf '%s\n' "$*" >&2; exit 1; }

"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
  || stop "Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11 (found: $("$PYTHON" --version 2>&1))"

have_gpu() { command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; }

install_torch() {
  # Without a GPU the CPU build is gigabytes smaller; take it where pip can find one, else what pip has.
  local version
  version=$(sed -n 's/^torch==//p' scripts/constraints.txt)
  if ! have_gpu && .venv/bin/pip install -q -c scripts/constraints.txt "torch==${version}+cpu" 2>/dev/null; then
    return
  fi
  .venv/bin/pip install -q -c scripts/constraints.txt "torch==${version}"
}

as_root() {
  # Runs a command as root, if that needs no password.
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

may_be_root() { [ "$(id -u)" = 0 ] || { command -v sudo >/dev/null && sudo -n true 2>/dev/null; }; }

make_venv() {
  [ -x .venv/bin/pip ] && return
  say "Making .venv"
  rm -rf .venv
  "$PYTHON" -m venv .venv >/dev/null 2>&1 && return
  rm -rf .venv  # Debian's python3 without python3-venv leaves half of one behind
  if command -v apt-get >/dev/null && may_be_root; then
    say "Installing python3-venv"
    as_root apt-get update -qq || true
    as_root apt-get install -y -qq python3-venv >/dev/null
  fi
  "$PYTHON" -m venv .venv || stop "$PYTHON cannot make a virtual environment (on Debian: apt-get install python3-venv)."
}

install_python_packages() {
  local want stamp=.venv/.installed
  want=$(cat pyproject.toml scripts/constraints.txt | sha256sum | cut -d' ' -f1)
  make_venv
  if [ "$(cat "$stamp$EXTRAS" 2>/dev/null)" != "$want" ]; then
    say "Installing pinned packages into .venv (a few minutes the first time)"
    install_torch
    .venv/bin/pip install -q -c scripts/constraints.txt "setuptools>=77" wheel
    .venv/bin/pip install -q -c scripts/constraints.txt --no-build-isolation -e ".${EXTRAS:+[$EXTRAS]}"
    echo "$want" >"$stamp$EXTRAS"
  fi
}

install_bubblewrap() {
  command -v bwrap >/dev/null && return
  local manager install=""
  for manager in apt-get dnf pacman apk zypper; do
    command -v "$manager" >/dev/null && break
    manager=""
  done
  case "$manager" in
    apt-get) install="apt-get install -y bubblewrap" ;;
    dnf) install="dnf install -y bubblewrap" ;;
    pacman) install="pacman -S --noconfirm bubblewrap" ;;
    apk) install="apk add bubblewrap" ;;
    zypper) install="zypper --non-interactive install bubblewrap" ;;
  esac
  if [ -n "$install" ] && may_be_root; then
    say "Installing bubblewrap"
    [ "$manager" != apt-get ] || as_root apt-get update -qq || true
    # shellcheck disable=SC2086  # a command with its words
    as_root $install >/dev/null && return
  fi
  stop "bubblewrap is missing: it is the sandbox that researchers' code runs in. Install it (${install:-see your system\'s package manager}) and run this again."
}

install_python_packages
install_bubblewrap
