#!/usr/bin/env bash
# From a fresh Debian machine to a running site: what "make quickstart" does.
set -euo pipefail
cd "$(dirname "$0")/.."
top=$PWD

run() {
  printf '\n$ %s\n' "$*"
  "$@"
}

sudo=()
[ "$(id -u)" = 0 ] || sudo=(sudo)
run "${sudo[@]}" ./qemu-tests/host-setup.sh
run make build
export PATH=$top/bin:$PATH

site=$top/examples/source
cd "$site"
[ -e keys/release.key ] || run holdfast keys generate --development

# The lock is committed, but archives move on: where its inputs can no longer be
# had, a copy of the site is locked anew, and the committed one stays as it is.
if [ -e site.lock ] && ! run holdfast lock --check --upstream; then
  printf '\nThe mirror no longer has what site.lock names. A copy of the site is locked anew.\n'
  site=$top/examples/source/out/relocked
  mkdir -p "$site"
  cp -a site.yaml site.lock manifests keys trust "$site"/
  cd "$site"
  run holdfast lock --update all --accept-scripts
else
  run holdfast lock
fi
run holdfast collect
run holdfast build
bundle=$(ls -t out/*.bundle | head -n 1)
run holdfast bundle verify "$bundle"
run holdfast lab up --wait
run holdfast lab status
printf '\nThe site runs. Look at it: holdfast -C %s lab kubectl get pods -A\nStop it: holdfast -C %s lab down\n' "$site" "$site"
