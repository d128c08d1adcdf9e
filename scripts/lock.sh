#!/usr/bin/env bash
# Resolve the dependencies of pyproject.toml into requirements/*.txt: exact versions, with the hashes of every
# platform's files, and nothing about where they were found. Arguments go to uv (--upgrade).
set -euo pipefail
cd "$(dirname "$0")/.."

compile() { # OUTPUT ARGUMENTS...   without any configuration of this machine
  local output=$1
  shift
  env -u PIP_FIND_LINKS -u PIP_INDEX_URL -u PIP_EXTRA_INDEX_URL .venv/bin/uv --no-config pip compile --quiet \
    --universal --generate-hashes --no-header --no-emit-index-url --no-emit-find-links \
    -o "requirements/$output" "$@"
}

.venv/bin/python -m pip install --quiet --require-hashes --no-deps --only-binary=:all: -r requirements/lock.txt
compile dev.txt --python-version 3.11 pyproject.toml --extra embedded --extra http --extra pkcs11 --group dev "$@"
compile run.txt --python-version 3.11 pyproject.toml --extra embedded --group build -c requirements/dev.txt # a part of dev.txt
compile fuzz.txt --python-version 3.11 --group fuzz "$@"
# Only the programs themselves: what they need is in dev.txt.
compile interop.txt --group interop --no-deps --python-version 3.12 "$@"
compile lock.txt --python-version 3.11 --group lock "$@"
if grep -nE '://|--(extra-)?index-[u]rl|--find-[l]inks|# via .*(^|[ =])/' requirements/*.txt; then
  echo "lock.sh: the lock names a place of this machine or of the network: see the lines above" >&2
  exit 1
fi
