#!/bin/sh
# with-guest.sh COMMAND [ARG…]: run a command beside a guest of its own.
#
# It starts a server in a directory of its own below /tmp and a real guest under
# QEMU, or under the hypervisor that BACKEND names (build the guest first: make
# guest), runs the command with VMFS_ADDR set and vmfs in PATH, and leaves nothing
# behind, on an error neither. The guest's VM is $VM, and $WORK a directory for
# files. The other examples run themselves by it when no guest is given to them:
#
#   examples/tar.sh                            with a guest of its own
#   VMFS_ADDR=… VM=db examples/tar.sh          with a VM of a server that runs
set -eu

here=$(cd "$(dirname "$0")/.." && pwd)
VMFS=${VMFS:-$here/bin/vmfs}
GUEST=${GUEST:-$here/build/guest}

fail() { echo "with-guest: $*" >&2; exit 1; }

[ $# -gt 0 ] || fail "no command given"
[ -x "$VMFS" ] || fail "$VMFS is not there: run make build"
[ -f "$GUEST/vmlinuz" ] && [ -f "$GUEST/initrd" ] || fail "$GUEST has no guest: run make guest"

WORK=$(mktemp -d /tmp/vmfs-example.XXXXXX)
mkdir "$WORK/bin"; ln -s "$VMFS" "$WORK/bin/vmfs"; PATH=$WORK/bin:$PATH
VMFS_ADDR=unix!$WORK/vmfs.sock VM=web
export WORK PATH VMFS_ADDR VM
server=

# The server is in a session of its own: Ctrl-C is for this script, which needs
# it to clean up.
if command -v setsid >/dev/null; then detach=setsid; else detach=; fi

cleanup() {
	status=$?
	trap '' INT TERM
	trap - EXIT
	if [ -n "$server" ] && kill -0 "$server" 2>/dev/null; then
		vmfs write $VM/ctl kill 2>/dev/null || :
		kill "$server" 2>/dev/null || :
		wait "$server" 2>/dev/null || :
	fi
	[ "$status" -eq 0 ] || tail -n 20 "$WORK/server.log" >&2 2>/dev/null || :
	rm -rf "$WORK"
	exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

mkfifo "$WORK/ready"
$detach vmfs serve --listen "$VMFS_ADDR" --state "$WORK/state" >"$WORK/ready" 2>"$WORK/server.log" &
server=$!
grep -q listening "$WORK/ready" || fail "the server does not start"

vmfs mkdir $VM
printf 'hypervisor=%s\nmemory=256M\nvsock.cid=3\nkernel=%s\ninitrd=%s\nargs=console=ttyS0 quiet\n' "${BACKEND:-qemu}" "$GUEST/vmlinuz" "$GUEST/initrd" |
	vmfs write $VM/config
vmfs write $VM/ctl start
vmfs cat $VM/console | grep -q 'vmfs guest ready' || fail "the guest does not come up"
"$@"
