#!/bin/sh
# Names what the machine lacks, with the one command that installs it, before anything else starts.
# Arguments: the Python to use; `sandbox` if jobs are to be run as well.
set -u
python=${1:-python3}
missing=

need() { # what, Debian package
    printf 'millrace: missing: %s\n' "$1" >&2
    missing="$missing $2"
}

if ! command -v "$python" >/dev/null 2>&1; then
    need "$python (Python 3.11 to 3.13)" "python3 python3-venv"
elif ! "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))'; then
    printf 'millrace: %s is %s; Python 3.11, 3.12 or 3.13 is needed: make PYTHON=python3.12 ...\n' \
        "$python" "$("$python" -c 'import platform; print(platform.python_version())')" >&2
    exit 1
elif ! "$python" -c 'import venv, ensurepip' >/dev/null 2>&1; then
    need "Python's venv module" "python3-venv"
fi
command -v git >/dev/null 2>&1 || need git git

if [ "${2:-}" = sandbox ] && [ "$(uname)" = Linux ]; then
    command -v bwrap >/dev/null 2>&1 || need "bubblewrap (bwrap)" bubblewrap
    command -v prlimit >/dev/null 2>&1 || need "util-linux (prlimit)" util-linux
    command -v "$python" >/dev/null 2>&1 && ! "$python" -c 'import ctypes; ctypes.CDLL("libseccomp.so.2")' 2>/dev/null &&
        need "libseccomp.so.2" libseccomp2
fi

if [ -n "$missing" ]; then
    if [ "$(uname)" = Linux ]; then
        sudo=
        [ "$(id -u)" = 0 ] || sudo="sudo "
        printf 'millrace: install it with: %sapt-get install -y --no-install-recommends%s\n' "$sudo" "$missing" >&2
    fi
    exit 1
fi
