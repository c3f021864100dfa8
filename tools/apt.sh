# Sourced: apt as root, or through sudo if there is one; otherwise says what is missing.
say() { echo "setup: $*" >&2; }

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
