#!/usr/bin/env bash
# Finds or installs the browser that the tests of reports open pages in. Called by the Makefile.
set -euo pipefail
. "$(dirname "$0")/apt.sh"
command -v chromium >/dev/null || install_package chromium "the tests of reports"
command -v chromium >/dev/null || { say "no chromium program: the tests of reports are left out"; exit 0; }
