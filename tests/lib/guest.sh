# guest.sh - for flow tests of src/guest: a build, a directory on tmpfs, the payload guest
# Sourced; needs top_srcdir and top_builddir. Sets $dir (removed at exit) and $payload.
set -eu -o pipefail
: "${top_srcdir:?}" "${top_builddir:?}"

skip() { echo "skipped: $*"; exit 77; }

command -v qemu-system-x86_64 >/dev/null || skip "no qemu-system-x86_64"
[ "$(uname -m)" = x86_64 ] || skip "x86-64 only"
make -s -C "$top_builddir" replicad replicad-attach tests/flow/guest/run tests/flow/guest/life >/dev/null || { echo "FAILED: build"; exit 1; }

dir=$(mktemp -d /dev/shm/rpl-guest.XXXXXX)
qemus=()
cleanup() {
	local pid
	for pid in ${qemus[@]+"${qemus[@]}"}; do
		kill -9 "$pid" 2>/dev/null && wait "$pid" 2>/dev/null || true
	done
	rm -rf "$dir"
}
trap cleanup EXIT

payload=$dir/payload.elf
gcc -m32 -ffreestanding -fno-pic -fno-stack-protector -fcf-protection=none -mno-sse -O1 -nostdlib -static -no-pie \
	-Wl,--build-id=none -Wl,-T,"$top_srcdir/tests/flow/guest/payload.ld" -o "$payload" "$top_srcdir/tests/flow/guest/payload.c"

# run NAME ARGUMENT...: one story of tests/flow/guest/run, in a directory of its own; nothing may be left but the
# primary's own files, which are not replicad's to remove
run() {
	local name=$1 left
	shift
	mkdir "$dir/$name"
	echo "== $name: $*"
	timeout 400 "$top_builddir/tests/flow/guest/run" --payload "$payload" --helper "$top_builddir/replicad-attach" \
		--dir "$dir/$name" "$@"
	left=$(ls "$dir/$name" | grep -v -E '^(primary\.(q|qmp|ram)|standby\.(argv|q))$' || true)
	[ -z "$left" ] || { echo "FAILED: left behind: $left"; exit 1; }
	rm -rf "${dir:?}/$name"
}

# tracks_by_kernel: can this kernel track writes (Linux 6.7)?
tracks_by_kernel() { printf '6.7\n%s\n' "$(uname -r)" | sort -V -C; }
