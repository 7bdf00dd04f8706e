# Sourced by the other scripts: makes .venv once, and installs the project with an extra into it.
# Usage: environment EXTRA

environment() {
    cd "$(dirname "${BASH_SOURCE[0]}")/.." || return
    local python=${PYTHON:-python3}
    if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        echo "Python 3.11 or newer is needed; set PYTHON to one (now: $python)." >&2
        return 2
    fi
    if [ ! -x .venv/bin/python ]; then
        echo "Making .venv ..."
        # A half-made environment would be taken for a whole one the next time.
        if command -v uv >/dev/null; then
            uv venv -q --seed --clear -p "$python" .venv || { rm -rf .venv; return 1; }
        else
            "$python" -m venv .venv || { rm -rf .venv; return 1; }
        fi
    fi
    local size="about 350 MB"
    [ "$1" = dev ] && size="about 2 GB, more where torch comes with CUDA,"
    echo "Installing icm-client[$1] into .venv ($size the first time) ..."
    if command -v uv >/dev/null; then
        uv pip install -q -p .venv/bin/python -e ".[$1]"
    else
        .venv/bin/python -m pip install -q --disable-pip-version-check -e ".[$1]"
    fi
}
