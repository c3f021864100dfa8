#!/usr/bin/env bash
# Makes .venv with the pinned packages and finds the rubberband program. Called by the Makefile.
set -euo pipefail

. "$(dirname "$0")/apt.sh"

command -v "$PYTHON" >/dev/null || PYTHON=python3
"$PYTHON" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || {
    say "needs Python 3.11; found $("$PYTHON" --version 2>&1). Name one: make setup PYTHON=/path/to/python3.11"; exit 1
}

if [ ! -x .venv/bin/python ]; then
    "$PYTHON" -c 'import ensurepip' 2>/dev/null || install_package python3-venv "the virtual environment" || exit 1
    "$PYTHON" -m venv .venv
fi
[ -x .venv/bin/uv ] || .venv/bin/python -m pip install --quiet --disable-pip-version-check "uv==$UV_VERSION"
say "installing the pinned packages into .venv (a few GB the first time)"
# uv itself is not in the lock: installed, not synchronised, so that it stays. Compiled now, imports take every
# worker process half the time, whatever PYTHONDONTWRITEBYTECODE says.
VIRTUAL_ENV=.venv .venv/bin/uv pip install --quiet --require-hashes --compile-bytecode -r requirements.lock
VIRTUAL_ENV=.venv .venv/bin/uv pip install --quiet --no-deps --no-build-isolation --editable .
say "compiling the front end for this processor"
.venv/bin/python tools/compile_front_end.py

if ! command -v rubberband >/dev/null; then
    install_package rubberband-cli "augmentation (--augment)" || true
    command -v rubberband >/dev/null || say "no rubberband program: everything works but --augment"
fi
