#!/usr/bin/env bash
# Installs what building, the lab and (with --test) the tests need on Debian 12
# or 13. Safe to run again: it does nothing where all is there.
#
# Packages come from the mirror that this machine's apt already uses; where
# Debian 12 needs a newer one, its backports suite on the same mirror is added.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'host-setup: %s\n' "$*"; }
fail() {
  printf 'host-setup: %s\nhint: %s\n' "$1" "$2" >&2
  exit 1
}

test_tools=no
case "${1-}" in
  "") ;;
  --test) test_tools=yes ;;
  *) fail "unknown argument $1" "usage: $0 [--test]" ;;
esac

# shellcheck source=/dev/null
. /etc/os-release
suite=${VERSION_CODENAME-}
case "${ID-} $suite" in
  "debian bookworm" | "debian trixie") ;;
  *) fail "this is ${PRETTY_NAME-no Debian}, not Debian 12 or 13" "install QEMU 10 or later, OVMF, make, git and Go 1.26 by other means" ;;
esac

root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    fail "must be root to run: $*" "run this as root, or install sudo"
  fi
}

packages=(qemu-system-x86 qemu-utils ovmf make git ca-certificates)
[ $test_tools = no ] || packages+=(mtools erofs-utils cryptsetup-bin sbsigntool mmdebstrap
  kmod cpio fdisk gdisk dosfstools binutils openssl rpm skopeo shellcheck gcc libc6-dev
  bmap-tools efitools e2fsprogs python3-venv
  nftables containernetworking-plugins iproute2 procps curl openssh-sftp-server)

# Where Debian's mirror is that this machine uses. The origin is known only once
# apt has fetched its lists.
mirror() {
  local site
  for _ in 1 2; do
    site=$(apt-get indextargets --format "\$(SITE)" "Created-By: Packages" "Origin: Debian" "Release: $suite" "Component: main" | sed -n 1p)
    [ -z "$site" ] || break
    root apt-get update -q >&2
  done
  [ -n "$site" ] || fail "no apt source for Debian's $suite main" "add Debian's mirror to /etc/apt/sources.list.d"
  echo "$site"
}
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

version() { dpkg-query -W -f "\${db:Status-Status} \${Version}\n" "$1" 2>/dev/null | sed -n 's/^installed //p' || true; }

# missing prints which packages are not there, or are there and too old.
missing() {
  local p v
  for p in "$@"; do
    v=$(version "$p")
    case $p in
      qemu-*) [ -n "$v" ] && dpkg --compare-versions "$v" ge 1:10 || echo "$p" ;;
      golang-go) [ -n "$v" ] && dpkg --compare-versions "$v" ge 2:1.21 || echo "$p" ;;
      *) [ -n "$v" ] || echo "$p" ;;
    esac
  done
}

add_backports() {
  [ "$suite" = bookworm ] || return 0
  local site
  if [ -n "$(apt-get indextargets --format x "Created-By: Packages" "Release: $suite-backports")" ]; then
    return 0
  fi
  site=$(mirror)
  say "adding the suite $suite-backports of $site"
  printf 'Types: deb\nURIs: %s\nSuites: %s-backports\nComponents: main\nSigned-By: %s\n' \
    "$site" "$suite" "$keyring" |
    root tee /etc/apt/sources.list.d/holdfast-backports.sources >/dev/null
}

# install the packages given; those in newer come from backports on Debian 12.
install() {
  local plain=() newer=() p
  for p in "$@"; do
    case "$suite $p" in
      "bookworm qemu-"* | "bookworm golang-go") newer+=("$p") ;;
      *) plain+=("$p") ;;
    esac
  done
  [ ${#newer[@]} = 0 ] || add_backports
  root apt-get update -q
  say "installing $*"
  local apt=(env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends
    -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold)
  [ ${#plain[@]} = 0 ] || root "${apt[@]}" "${plain[@]}"
  [ ${#newer[@]} = 0 ] || root "${apt[@]}" -t "$suite-backports" "${newer[@]}"
}

# go_as_user finds the go of whoever called sudo, whose PATH sudo has cut.
go_as_user() {
  local path=$PATH:/usr/local/go/bin
  if [ "$(id -u)" = 0 ] && [ -n "${SUDO_USER-}" ] && [ "$SUDO_USER" != root ]; then
    sudo -u "$SUDO_USER" -H env PATH="$path" "$@"
  else
    env PATH="$path" "$@"
  fi
}

# go_minor prints the x of Go 1.x as it runs in this module.
go_minor() { go_as_user "$@" go version 2>/dev/null | sed -n 's/^go version go1\.\([0-9]*\).*/\1/p' || true; }

check_go() {
  local minor
  minor=$(go_minor env)
  [ "${minor:-0}" -lt 26 ] || return 0
  if [ "$(go_minor env GOTOOLCHAIN=local GOFLAGS=-mod=mod GO111MODULE=off)" -ge 21 ] 2>/dev/null; then
    say "the go here is older than 1.26; it fetches 1.26 itself from the module proxy"
  else
    say "no Go is here"
    install golang-go
  fi
  # A go may be set to stay at its own version unless it is told otherwise.
  minor=$(go_minor env GOTOOLCHAIN=auto)
  [ "${minor:-0}" -ge 26 ] || fail "go cannot fetch Go 1.26 from the module proxy ($(go_as_user go env GOPROXY))" \
    "install Go 1.26 in /usr/local/go, or set GOPROXY to a mirror that has golang.org/toolchain"
  minor=$(go_minor env)
  [ "${minor:-0}" -ge 26 ] || say "Go 1.26 is used with: export GOTOOLCHAIN=auto"
}

# cosign (one static program) and systemd's EFI stub are in Debian 13 only. On
# either release they are taken from there, checked by apt's signatures, and put
# beside the caches.
fetch_trixie() {
  local tools=.cache/tools work=$PWD/.cache/apt site deb
  [ ! -x $tools/usr/bin/cosign ] || [ ! -d $tools/usr/lib/systemd/boot/efi ] || return 0
  site=$(mirror)
  say "fetching cosign and systemd-boot-efi of Debian 13 into $tools"
  rm -rf "$work"
  mkdir -p "$work/lists/partial" "$work/archives/partial" $tools
  printf 'deb [signed-by=%s] %s trixie main\n' "$keyring" "$site" >"$work/sources.list"
  # The sandbox user cannot write here; what is fetched is verified all the same.
  local opt=(-q -o "Dir::Etc::SourceList=$work/sources.list" -o Dir::Etc::SourceParts=/dev/null
    -o "Dir::State::Lists=$work/lists" -o "Dir::Cache=$work" -o Acquire::Languages=none
    -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false
    -o "APT::Sandbox::User=$(id -un)" -o Debug::NoLocking=1)
  apt-get "${opt[@]}" update
  (cd "$work/archives" && apt-get "${opt[@]}" download cosign systemd-boot-efi)
  for deb in "$work"/archives/*.deb; do
    dpkg-deb -x "$deb" $tools
  done
  rm -rf "$work"
}

# The registry is taken from this machine's own release, and unpacked beside the
# caches too: installed, it would be started.
fetch_registry() {
  local tools=.cache/tools work
  [ ! -x $tools/usr/bin/docker-registry ] || return 0
  say "fetching docker-registry into $tools"
  work=$(mktemp -d)
  if (cd "$work" && apt-get -q -o "APT::Sandbox::User=$(id -un)" download docker-registry); then
    mkdir -p $tools
    dpkg-deb -x "$work"/docker-registry_*.deb $tools
  else
    say "this release has no docker-registry: tests that need one will skip"
  fi
  rm -rf "$work"
}

# pyspdxtools judges our SBOMs.
fetch_spdx() {
  local venv=.cache/tools/spdx
  [ ! -x $venv/bin/pyspdxtools ] || return 0
  say "fetching pyspdxtools into $venv"
  python3 -m venv $venv
  $venv/bin/pip install -q spdx-tools==0.8.3
}

# give_back leaves what was fetched to whoever called sudo.
give_back() {
  if [ "$(id -u)" = 0 ] && [ -n "${SUDO_UID-}" ] && [ -d .cache ]; then
    chown -R "$SUDO_UID:${SUDO_GID-$SUDO_UID}" .cache
  fi
}

list=$(missing "${packages[@]}")
if [ -n "$list" ]; then
  mapfile -t todo <<<"$list"
  install "${todo[@]}"
  list=$(missing "${packages[@]}")
  [ -z "$list" ] || fail "still missing or too old: $list" "see what apt said above"
fi
check_go
if [ $test_tools = yes ]; then
  fetch_trixie
  fetch_registry
  fetch_spdx
  give_back
fi
say "all is there"
