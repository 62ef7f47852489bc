#!/bin/sh
# guest.sh: the demo guest on a Mac, in build/guest: Debian's cloud kernel for this Mac's
# processor, a static busybox, and vmfs built for Linux as its init. (On Debian `make
# guest` asks apt for the same.) What Debian's index lists is fetched over HTTPS, and
# checked by the index's sums.
#
#   mac/guest.sh [DIR]    default build/guest; MIRROR, SUITE and ARCH say where from
set -eu

here=$(cd "$(dirname "$0")/.." && pwd)
OUT=${1:-$here/build/guest}
MIRROR=${MIRROR:-https://deb.debian.org/debian}
SUITE=${SUITE:-bookworm}
case ${ARCH:-$(uname -m)} in
arm64|aarch64) ARCH=arm64 ;;
x86_64|amd64) ARCH=amd64 ;;
*) echo "guest.sh: no guest for the processor ${ARCH:-$(uname -m)}" >&2; exit 1 ;;
esac
VMFS=${VMFS:-$here/bin/vmfs}
[ -x "$VMFS" ] || { echo "guest.sh: $VMFS is not there: run make" >&2; exit 1; }

work=$(mktemp -d /tmp/vmfs-guest.XXXXXX)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

curl -fsSL "$MIRROR/dists/$SUITE/main/binary-$ARCH/Packages.gz" | gunzip >"$work/index"

# field PACKAGE FIELD: of the index.
field() {
	awk -v p="$1" -v f="$2:" '$1 == "Package:" { on = $2 == p } on && $1 == f { sub("^[^ ]* ", ""); print; exit }' "$work/index"
}
# unpack PACKAGE DIR
unpack() {
	file=$(field "$1" Filename)
	[ -n "$file" ] || { echo "guest.sh: $SUITE has no package $1 for $ARCH" >&2; exit 1; }
	echo "fetching $1" >&2
	curl -fsSL "$MIRROR/$file" >"$work/deb"
	if command -v shasum >/dev/null; then sum=$(shasum -a 256 "$work/deb"); else sum=$(sha256sum "$work/deb"); fi
	[ "${sum%% *}" = "$(field "$1" SHA256)" ] || { echo "guest.sh: $file is not what the index lists" >&2; exit 1; }
	mkdir -p "$2"
	member=$(ar t "$work/deb" | grep '^data\.tar')
	(cd "$work" && ar x deb "$member")
	tar -C "$2" -xf "$work/$member"
	rm "$work/$member"
}

# The meta package names today's kernel.
kernel=$(field "linux-image-cloud-$ARCH" Depends | tr ',' '\n' | sed -n 's/^ *\(linux-image-[^ ]*\).*/\1/p' | head -n 1)
[ -n "$kernel" ] || { echo "guest.sh: $SUITE has no cloud kernel for $ARCH" >&2; exit 1; }
unpack "$kernel" "$work/kernel"
unpack busybox-static "$work/busybox"
release=${kernel#linux-image-}
release=${release%-unsigned}
vmlinuz=$work/kernel/boot/vmlinuz-$release
if gzip -t "$vmlinuz" 2>/dev/null; then # Apple silicon boots an uncompressed kernel only
	gunzip <"$vmlinuz" >"$work/vmlinuz"
	vmlinuz=$work/vmlinuz
fi

cd "$here"
CGO_ENABLED=0 GOOS=linux GOARCH=$ARCH go build -trimpath -ldflags '-s -w' -o "$work/agent" ./cmd/vmfs
busybox=$work/busybox/bin/busybox
[ -f "$busybox" ] || busybox=$work/busybox/usr/bin/busybox
"$VMFS" guest build -o "$OUT" --arch "$ARCH" --agent "$work/agent" --busybox "$busybox" \
	--kernel "$vmlinuz" --modules "$(ls -d "$work"/kernel/lib/modules/"$release" "$work"/kernel/usr/lib/modules/"$release" 2>/dev/null | head -n 1)"
