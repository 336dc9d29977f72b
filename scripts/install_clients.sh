#!/usr/bin/env bash
# The clients of others that the gateway's tests run, side by side: they wait for the network more than for a core.
# A part is left alone where it is installed already, and its tests are skipped where it cannot be had here.
# Usage: scripts/install_clients.sh
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}

# $1: folder, $2: requirements. The stamp is written last, and is of these requirements.
environment() {
    local folder=$1 wanted=$2
    if cmp -s "$wanted" "$folder/.installed"; then return; fi
    rm -rf "$folder"
    "$PYTHON" -m venv "$folder"
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check -r "$wanted"
    cp "$wanted" "$folder/.installed"
    echo "installed $folder"
}

packages() {
    if ! command -v npm >/dev/null || ! command -v node >/dev/null; then
        echo "no node and npm here: the tests of clients from npm are skipped"
        return
    fi
    cd tests/clients
    if cmp -s package.json node_modules/.installed; then return; fi
    rm -rf node_modules
    # Without a lock: one that is written here names the binaries of this kind of machine alone.
    npm install --no-save --no-package-lock --no-audit --no-fund --loglevel=error
    cp package.json node_modules/.installed
    echo "installed tests/clients/node_modules"
}

environment .venv-clients tests/clients/requirements.txt &
clients=$!
environment .venv-aider tests/clients/requirements-aider.txt &
aider=$!
(packages) &
node=$!
wait "$clients"
wait "$aider"
wait "$node"
