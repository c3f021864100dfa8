#!/usr/bin/env bash
# Makes .venv with the pinned packages and finds the rubberband program. Called by the Makefile.
set -euo pipefail

say() { echo "setup: $*" >&2; }

# apt as root, or through sudo if there is one; otherwise say what is missing.
install_package() {
    local package=$1 why=$2
    if ! command -v apt-get >/dev/null; then
        say "$why needs the Debian package $package, and there is no apt-get here: install it by hand"; return 1
    fi
    local root=()
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || { say "$why needs: apt-get install $package (as root)"; return 1; }
        root=(sudo)
    fi
    say "installing $package: $why needs it"
    { "${root[@]}" apt-get update -qq && "${root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "$package" >/dev/null; } 2>&1 | grep -v debconf >&2 || true
}

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

if ! command -v rubberband >/dev/null; then
    install_package rubberband-cli "augmentation (--augment)" || true
    command -v rubberband >/dev/null || say "no rubberband program: everything works but --augment"
fi
