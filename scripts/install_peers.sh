#!/usr/bin/env bash
# The gateways of others that `make bench-gateway ARGS=--peers` measures beside ours. What cannot be installed is
# said, and the bench leaves it out: that is no error.
# Usage: scripts/install_peers.sh
set -uo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
LITELLM='litellm[proxy]==1.106.2'
PORTKEY='@portkey-ai/gateway@1.15.2'

# $1: folder, $2: requirement, then the command that installs it. The stamp is written last, and names the requirement.
part() {
    local folder=$1 wanted=$2
    shift 2
    if [ "$(cat "$folder/.installed" 2>/dev/null)" = "$wanted" ]; then return; fi
    rm -rf "$folder"
    mkdir -p "$folder"
    if "$@" && echo "$wanted" >"$folder/.installed"; then
        echo "installed $wanted"
    else
        rm -rf "$folder"
        echo "cannot install $wanted here: the bench leaves it out"
    fi
}

python_part() {
    "$PYTHON" -m venv .venv-peers/litellm &&
        .venv-peers/litellm/bin/python -m pip install --quiet --disable-pip-version-check "$LITELLM"
}

node_part() {
    command -v node >/dev/null && command -v npm >/dev/null &&
        npm install --prefix .venv-peers/portkey --no-save --no-package-lock --no-audit --no-fund --loglevel=error "$PORTKEY"
}

part .venv-peers/litellm "$LITELLM" python_part
part .venv-peers/portkey "$PORTKEY" node_part
