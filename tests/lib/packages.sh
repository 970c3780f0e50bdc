# shellcheck shell=bash disable=SC2034,SC2086
# packages.sh - what has to be installed, for ./quickstart and ./run-tests alike; sourced by bash
#
# Debian 12 names. A set is installed only where something of it is missing, so that a second run needs no network.

# to build from a clone
RPL_PACKAGES_BUILD="autoconf automake libtool make gcc libc6-dev pkg-config libev-dev libgnutls28-dev libjansson-dev
	libinih-dev libxxhash-dev libseccomp-dev libcap-ng-dev libcmocka-dev libnl-3-dev liblz4-dev libcurl4-gnutls-dev
	libxen-dev"
# to run the demo: the guest's kernel and userland are made of these (redis-tools holds the server's binary, and starts
# no server on this machine)
RPL_PACKAGES_DEMO="qemu-system-x86 linux-image-amd64 busybox-static redis-tools iproute2 python3 openssl"
# to run all tests
RPL_PACKAGES_TEST="clang llvm libclang-rt-dev spin mandoc procps etcd-server zstd"
# to run the Xen lab
RPL_PACKAGES_LAB="qemu-system-x86 debootstrap e2fsprogs openssh-client iproute2 python3 gcc zstd etcd-server"

# A package is there if it is installed, or if something installed provides it.
rpl_missing_packages() {
	local p
	for p in "$@"; do
		dpkg-query -W -f '${db:Status-Status}\n' "$p" 2>/dev/null | grep -qx installed || echo "$p"
	done
}

rpl_as_root() {
	if [ "$(id -u)" = 0 ]; then
		"$@"
	elif command -v sudo >/dev/null; then
		sudo "$@"
	else
		echo "replicad: '$*' needs root: become root, or install sudo" >&2
		return 1
	fi
}

# rpl_install PACKAGE...: install those that are missing. One apt-get update a run, and only if it is needed.
rpl_install() {
	local missing
	missing=$(rpl_missing_packages "$@")
	[ -n "$missing" ] || return 0
	if ! command -v apt-get >/dev/null; then
		echo "replicad: this is no Debian; install what corresponds to:" $missing >&2
		return 1
	fi
	echo "installing:" $missing
	rpl_as_root env DEBIAN_FRONTEND=noninteractive apt-get -q update >/dev/null || return 1
	rpl_as_root env DEBIAN_FRONTEND=noninteractive apt-get -qy install --no-install-recommends $missing >/dev/null
}
