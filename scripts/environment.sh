# Sourced by the other scripts: makes .venv once, and installs the project with an extra into it.
# Usage: environment EXTRA

environment() {
    cd "$(dirname "${BASH_SOURCE[0]}")/.." || return
    local python=${PYTHON:-python3}
    if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        echo "Python 3.11 or newer is needed; set PYTHON to one (now: $python)." >&2
        return 2
    fi
    if command -v uv >/dev/null; then
        [ -d .venv ] || { echo "Making .venv with uv ..." && uv venv -q -p "$python" .venv; } || return
        echo "Installing icm-client[$1] with uv ..."
        uv pip install -q -p .venv -e ".[$1]"
    else
        [ -d .venv ] || { echo "Making .venv ..." && "$python" -m venv .venv; } || return
        echo "Installing icm-client[$1] (about 350 MB the first time) ..."
        .venv/bin/python -m pip install -q --disable-pip-version-check -e ".[$1]"
    fi
}
