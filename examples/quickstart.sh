#!/usr/bin/env bash
# From a fresh Debian machine to a running site: what "make quickstart" does.
# It may be run again; what did not change is not made again.
set -euo pipefail
cd "$(dirname "$0")/.."
top=$PWD
export GOTOOLCHAIN=${GOTOOLCHAIN-auto}

run() {
  printf '\n$ %s\n' "$*"
  "$@"
}

say() { printf '\n%s\n' "$*"; }

# lock takes maintainer scripts that came after the last review as they are: the
# site is for a look, and the lock and the release record it.
lock() {
  run holdfast lock "$@" && return
  say "Where maintainer scripts are new, they are accepted unread; for a site of your own, read them first."
  run holdfast lock "$@" --accept-scripts
}

run ./qemu-tests/host-setup.sh
run make --no-print-directory build
export PATH=$top/bin:$PATH

site=$top/examples/source
run cd "$site"
[ -e keys/release.key ] || run holdfast keys generate --development
# Keys that were made before there were enrolment files.
[ -e trust/PK.auth ] || run holdfast keys enrolment
# The same, before there were backups.
[ -e trust/recovery.txt ] || run holdfast keys recovery

if [ ! -e site.lock ]; then
  lock
elif run holdfast lock --check --upstream; then
  # New keys make a new trust policy, whose digest is in the lock; where nothing
  # is new, this changes nothing.
  lock
else
  # Archives move on, and drop what site.lock names. The one that is committed
  # stays as it is.
  site=$top/out/source-relocked
  say "What site.lock names can no longer be had (see above). A copy of the site is locked anew, in ${site#"$top"/}."
  mkdir -p "$site"
  cp -a site.yaml site.lock manifests keys trust "$site"/
  run cd "$site"
  lock --update all
fi
run holdfast collect

mkdir -p out
run holdfast build | tee out/build.log
bundle=$(sed -n 's/^ *\(out\/[^ ]*\.bundle\) .*/\1/p' out/build.log)
run holdfast bundle verify "$bundle"

fresh=()
if [ -e out/lab/disk.qcow2 ]; then
  run holdfast lab down
  # A disk is good only over the image that it was made from.
  [ "${bundle%.bundle}.qcow2" -ot out/lab/disk.qcow2 ] || fresh=(--fresh)
fi
run holdfast lab up --wait "${fresh[@]}"

say "The site runs."
printf '\n%-42s %10s  %s\n' OUTPUT SIZE DIGEST
sed -n '/^ *out\//p' out/build.log
holdfast lab status
cat <<END

Look at it:   holdfast -C ${site} lab kubectl get pods -A
Its database: holdfast -C ${site} lab kubectl exec -it -n postgresql postgresql-0 -- psql -h /run/postgresql -U postgres
Its console:  holdfast -C ${site} lab console
Stop it:      holdfast -C ${site} lab down
(holdfast is ${top}/bin/holdfast)
END
