#!/bin/bash
# Makes this checkout runnable: system packages, then .venv with the project and its tools.
#
# It needs a Debian with python3 and bash, and does nothing when nothing changed. As root it
# installs what Debian lacks; otherwise it prints the one apt line and stops. It must never
# touch anything outside .venv except through apt, nor choose a package index: pip and apt
# run as this machine has them configured. With --tests it only sees to what the tests need beside.
set -euo pipefail
cd "$(dirname "$0")/.."

# Two makes at once must not build one .venv: the second waits, then finds it done.
exec 9<pyproject.toml
flock 9

say() { printf 'setup: %s\n' "$*" >&2; }

# The path is part of the key because an editable install and scripts hold absolute paths:
# the .venv of a copied tree would run the code of the original.
key="$( { cat pyproject.toml tools/setup.sh; pwd -P; } | sha256sum | cut -d' ' -f1)"

is_current() {
    [ "$(cat .venv/.complete 2>/dev/null)" = "$key" ] && .venv/bin/python -c '' 2>/dev/null
}

# A python3 on PATH may be older or without venv while Debian's own is fine: take the first
# that can do the work.
find_python() {
    local candidate
    for candidate in "${PYTHON:-python3}" /usr/bin/python3; do
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
            >/dev/null 2>&1; then
            echo "$candidate"
            return
        fi
    done
    return 1
}

# pci.ids gives devices their names; lspci is the peer that the benchmark measures against.
has_pci_ids() {
    local file
    for file in /usr/share/misc/pci.ids /usr/share/misc/pci.ids.gz /usr/share/hwdata/pci.ids; do
        [ -r "$file" ] && return
    done
    return 1
}

has_lspci() { command -v lspci >/dev/null || [ -x /usr/bin/lspci ] || [ -x /sbin/lspci ]; }

apt_line() { echo "apt-get update && ${1:-}apt-get install -y --no-install-recommends $missing"; }

install_missing() {
    if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
        say "installing $missing"
        export DEBIAN_FRONTEND=noninteractive
        apt-get update -qq </dev/null >&2
        # shellcheck disable=SC2086  # one word a package
        apt-get install -y -qq --no-install-recommends $missing </dev/null >&2
    else
        return 1
    fi
}

has_tc() { command -v tc >/dev/null || [ -x /sbin/tc ]; }
has_faketime() { compgen -G '/usr/lib/*/faketime/libfaketimeMT.so.1' >/dev/null; }

# Only the tests open a page in a browser, try a script in busybox, look at system calls, cut wires
# between network namespaces and set clocks; what else make does must not wait for these downloads.
if [ "${1:-}" = --tests ]; then
    missing=""
    command -v chromium >/dev/null || missing="chromium"
    # The static one: the lab's machines start from it.
    command -v busybox >/dev/null || missing="$missing busybox-static"
    command -v strace >/dev/null || missing="$missing strace"
    has_tc || missing="$missing iproute2"
    has_faketime || missing="$missing libfaketime"
    if [ -n "$missing" ] && ! install_missing; then
        say "note: without these some tests are left out, and fail under CI:"
        say "  sudo $(apt_line 'sudo ')"
    fi
    exit 0
fi

if is_current; then
    exit 0
fi

if ! find_python >/dev/null; then
    missing="python3 python3-venv"
    has_pci_ids && has_lspci || missing="$missing pciutils"
    if ! install_missing; then
        say "this needs a Python >= 3.11 with venv. Run this, then the same command again:"
        say "  sudo $(apt_line 'sudo ')"
        exit 1
    fi
    if ! find_python >/dev/null; then
        say "still no Python >= 3.11 with venv after installing: $missing"
        exit 1
    fi
fi

if ! { has_pci_ids && has_lspci; }; then
    missing="pciutils"
    if ! install_missing; then
        say "note: no pci.ids or lspci; devices show as numeric ids. To have names:"
        say "  sudo $(apt_line 'sudo ')"
    fi
fi

python="$(find_python)"

# Reusing an unfinished or moved environment saves seconds and costs mysteries.
if [ -e .venv ] && ! { [ "$(cat .venv/.tree 2>/dev/null)" = "$(pwd -P)" ] \
    && .venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }; then
    rm -rf .venv
fi
if [ ! -e .venv ]; then
    say "making .venv with $("$python" --version)"
    "$python" -m venv .venv
    pwd -P >.venv/.tree
fi
rm -f .venv/.complete
say "installing the project and its tools (a minute or two the first time)"
.venv/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]' </dev/null
echo "$key" >.venv/.complete
