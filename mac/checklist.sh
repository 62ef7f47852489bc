#!/bin/sh
# checklist.sh: what docs/mac-checklist.md lists, run from one end to the other on a Mac.
# `make mac-checklist` builds what it needs. It works in a directory of its own below
# /tmp with a server of its own, leaves nothing running, and writes a report to send
# back: build/mac-report.txt.
#
#   EFI_DISK=FILE   a raw image of a system for this Mac's processor, to boot by EFI
#   BRIDGE=en0      an interface to bridge, with a vmfs that is signed for it
#   SLEEP=1         let the Mac sleep for a minute on the way: somebody wakes it
#
# With BACKEND=qemu it runs on Linux: so is the script itself tested. What only a Mac
# has is skipped there.
set -u

here=$(cd "$(dirname "$0")/.." && pwd)
BACKEND=${BACKEND:-vz}
VMFS=${VMFS:-$here/bin/vmfs}
GUEST=${GUEST:-$here/build/guest}
REPORT=${REPORT:-$here/build/mac-report.txt}
on_mac() { [ "$(uname -s)" = Darwin ]; }
[ -x "$VMFS" ] || { echo "checklist: $VMFS is not there: run make" >&2; exit 1; }
[ -f "$GUEST/vmlinuz" ] && [ -f "$GUEST/initrd" ] || { echo "checklist: $GUEST has no guest: run make guest" >&2; exit 1; }

dir=$(mktemp -d /tmp/vmfs-mac.XXXXXX)
mkdir "$dir/bin" && ln -s "$VMFS" "$dir/bin/vmfs"
PATH=$dir/bin:$PATH
VMFS_ADDR=unix!$dir/s
export PATH VMFS_ADDR
console=hvc0
[ "$BACKEND" = vz ] || console=ttyS0
server=
passed=0 failed=0 skipped=0
mkdir -p "$(dirname "$REPORT")"
: >"$REPORT"

# check ID TEXT: runs the function check_ID and reports. Its output is told where it
# fails, or where it is a note. Exit status 77 is a skip.
check() {
	( set -e; "check_$1" ) >"$dir/out" 2>&1
	case $? in
	0) word=pass; passed=$((passed + 1)) ;;
	77) word=skip; skipped=$((skipped + 1)) ;;
	*) word=FAIL; failed=$((failed + 1)) ;;
	esac
	{
		printf '%s %-10s %s\n' "$word" "$1" "$2"
		if [ $word != pass ] || [ "$1" = system ] || [ "$1" = host ] || [ "$1" = network ]; then sed 's/^/     | /' "$dir/out"; fi
	} | tee -a "$REPORT"
}
skip() { echo "$*"; exit 77; }

# refused WORD COMMAND…: the command fails, and says the word.
refused() {
	word=$1
	shift
	if "$@" >"$dir/said" 2>&1; then echo "not refused: $*"; return 1; fi
	cat "$dir/said"
	grep -q -- "$word" "$dir/said"
}

# within SECONDS COMMAND…: the command succeeds at last.
within() {
	tries=$(($1 * 5))
	shift
	until "$@" 2>"$dir/within"; do
		tries=$((tries - 1))
		[ $tries -gt 0 ] || { echo "never: $*"; cat "$dir/within"; return 1; }
		sleep 0.2
	done
}

serve() {
	: >"$dir/ready"
	vmfs serve --listen "$VMFS_ADDR" --state "$dir/state" >"$dir/ready" 2>>"$dir/server.log" &
	server=$!
	tries=100
	until grep -q listening "$dir/ready"; do
		tries=$((tries - 1))
		[ $tries -gt 0 ] || return 1
		sleep 0.1
	done
}

# config NAME [LINE…]: makes the VM NAME of the demo guest.
config() {
	name=$1
	shift
	vmfs mkdir "$name"
	{
		printf 'hypervisor=%s\nvcpus=2\nmemory=384M\nhotplug=128M\nvsock.cid=3\nkernel=%s\ninitrd=%s\nargs=console=%s quiet\n' \
			"$BACKEND" "$GUEST/vmlinuz" "$GUEST/initrd" $console
		[ "$BACKEND" != qemu ] || echo qemu.accel=tcg
		for line; do echo "$line"; done
	} | vmfs write "$name/config"
}
ready() { vmfs exec web true; }
gone() { [ -z "$(vmfs cat web/pid)" ]; }
has() { vmfs cat web/capabilities | grep -qx "$1"; }
state() { [ "$(vmfs cat web/state)" = "$1" ]; }
agent() { echo "$1" | vmfs rdwr web/vsock/1026; }
actual() { agent memory | sed -n 's/^ok actual=\([0-9]*\).*/\1/p'; }
# about BYTES COMMAND…: what the command prints differs from that by less than 2 MiB.
about() {
	want=$1
	shift
	is=$("$@" | tr -d '\n')
	d=$((is - want))
	[ ${d#-} -lt 2097152 ] || { echo "$is is not about $want" >&2; return 1; }
}

cleanup() {
	trap '' INT TERM
	trap - EXIT
	for vm in web efi bridged; do vmfs write $vm/ctl kill; done >/dev/null 2>&1
	[ -z "$server" ] || { kill "$server" && wait "$server"; } 2>/dev/null
	# Those of a VM that no server has ended, as when this is interrupted between two.
	# shellcheck disable=SC2009 # pgrep has no fixed strings
	ps -axo pid=,command= | grep -F -- "$dir/state" | grep -v grep | while read -r pid _; do kill -KILL "$pid"; done 2>/dev/null
	rm -rf "$dir"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

check_system() {
	date
	uname -a
	vmfs version
	if on_mac; then
		sw_vers
		sysctl -n hw.model machdep.cpu.brand_string hw.memsize
		xcodebuild -version || pkgutil --pkg-info=com.apple.pkg.CLTools_Executables
		[ "$(sysctl -n kern.hv_support)" = 1 ]
	fi
}
check_signature() {
	on_mac || skip "codesign is a Mac's"
	codesign --verify --verbose "$VMFS"
	codesign -d --entitlements :- "$VMFS" | tee /dev/stderr | grep -q com.apple.security.virtualization
}
check_host() {
	[ "$BACKEND" = vz ] || skip "$BACKEND has no such shim"
	vmfs vz-shim --host | tee "$dir/host"
	for feature in stop caching vsock balloon netfiles machine efi; do grep -q "\"$feature\"" "$dir/host"; done
}
check_server() {
	[ "$(ls -l "$dir/s" | cut -c1-10)" = srw------- ]
	vmfs cat version
}
check_owner() {
	config web "disk=path:$dir/disk,size:64M" "disk=path:$dir/readonly,readonly:yes" net=user
	vmfs stat web | grep -E "^(uid|owner|user)=" | grep -q -e "$(id -un)" -e "=$(id -u)$"
}
check_start() {
	vmfs write web/ctl start
	state running
	within 120 ready
	vmfs exec web uname -a
}
check_process() {
	pid=$(vmfs cat web/pid)
	kill -0 "$pid"
	# A session of its own: nothing that ends the server's ends it.
	ps -o pid=,pgid=,command= -p "$pid" | tee /dev/stderr | grep -Eq "^ *$pid +$pid "
	[ "$BACKEND" != vz ] || ps -o command= -p "$pid" | grep -q vz-shim
}
check_console() {
	vmfs write web/console 'echo typed $((6*7))'
	within 20 sh -c "vmfs cat web/console & c=\$!; sleep 2; kill \$c; wait \$c" >"$dir/console" || :
	grep -q 'typed 42' "$dir/console"
	grep -q 'vmfs guest ready' "$dir/console"
}
check_pause() {
	has pause
	vmfs write web/ctl pause
	state paused
	vmfs write web/ctl resume
	state running
	within 30 ready
	for _ in 1 2 3 4 5 6 7 8 9 10; do vmfs write web/ctl pause && vmfs write web/ctl resume; done
	state running
	within 30 ready
}
check_clock() {
	# The guest's clock is the host's, within two seconds, after what it stood still.
	guest=$(vmfs exec web date +%s) host=$(date +%s)
	d=$((guest - host))
	echo "the guest is off by $d s"
	echo "clock set=$host" | vmfs rdwr web/vsock/1026
	guest=$(vmfs exec web date +%s) host=$(date +%s)
	d=$((guest - host))
	[ ${d#-} -le 2 ]
}
check_memory() {
	has memory
	within 20 about 402653184 actual
	for size in 512 256 384; do
		vmfs write web/ctl memory ${size}M wait 60s
		# A guest may say so a moment after its hypervisor.
		within 20 about $((size << 20)) actual
		about $((size << 20)) vmfs cat web/memory
	done
	refused . vmfs write web/ctl memory 8G
}
check_vsock() {
	has vsock
	head -c 1000000 /dev/urandom >"$dir/data"
	vmfs rdwr web/vsock/7 <"$dir/data" >"$dir/echo"
	cmp "$dir/data" "$dir/echo"
	# Half-close: sort answers when its input has ended.
	[ "$(printf -- '-sort\nb\na\n' | vmfs rdwr web/vsock/1024 | tr '\n' ' ')" = 'a b ' ]
	refused refused vmfs cat web/vsock/4242
}
check_streams() {
	pid=$(vmfs cat web/pid)
	if command -v lsof >/dev/null; then before=$(lsof -p "$pid" 2>/dev/null | wc -l); else before=; fi
	head -c 200000 /dev/urandom >"$dir/data"
	n=0
	while [ $n -lt "${STREAMS:-200}" ]; do # eight at a time
		jobs=
		for i in 1 2 3 4 5 6 7 8; do
			vmfs rdwr web/vsock/7 <"$dir/data" >"$dir/echo$i" &
			jobs="$jobs $!"
		done
		for job in $jobs; do wait "$job"; done
		for i in 1 2 3 4 5 6 7 8; do cmp "$dir/data" "$dir/echo$i"; done
		n=$((n + 8))
	done
	[ -n "$before" ] || return 0
	after=$(lsof -p "$pid" 2>/dev/null | wc -l)
	echo "descriptors: $before before, $after after"
	[ $((after - before)) -lt 16 ]
}
check_listen() {
	for round in 1 2 3; do
		vmfs cat web/vsock/listen/9000 >"$dir/heard" &
		listener=$!
		within 20 vmfs exec web sh -c "echo round $round | vsock dial 9000"
		wait $listener
		grep -q "round $round" "$dir/heard"
	done
}
check_network() {
	mac=$(vmfs exec web cat /sys/class/net/eth0/address)
	echo "MAC $mac"
	vmfs exec web ip link set eth0 up
	# A lease, where busybox has a client and the kernel packet sockets: to be read.
	vmfs exec web sh -c 'udhcpc -i eth0 -n -q -t 3 -f 2>&1 || true'
}
check_disk() {
	vmfs exec web sh -c 'ls -l /dev/vda /dev/vdb && cat /sys/block/vda/size /sys/block/vdb/ro'
	[ "$(vmfs exec web cat /sys/block/vda/size)" = 131072 ]
	[ "$(vmfs exec web cat /sys/block/vdb/ro)" = 1 ]
	vmfs exec web sh -c 'echo written by the guest | dd of=/dev/vda bs=512 seek=8 conv=sync,fsync 2>/dev/null; sync'
	dd if="$dir/disk" bs=512 skip=8 count=1 2>/dev/null | grep -q 'written by the guest'
	vmfs exec web dd if=/dev/vdb bs=512 count=1 2>/dev/null | grep -q 'for reading'
	refused . vmfs exec web sh -c 'dd if=/dev/zero of=/dev/vdb bs=512 count=1 conv=fsync'
}
check_snapshot() {
	if ! has snapshot; then
		refused snapshot vmfs write web/ctl snapshot one
		on_mac && [ "$(uname -m)" = arm64 ] && [ "$(sw_vers -productVersion | cut -d. -f1)" -ge 14 ] && return 1
		skip "this host cannot save the state of a VM, and says so"
	fi
	vmfs exec web sh -c 'echo one >/tmp/mark'
	vmfs write web/ctl snapshot one
	state running
	vmfs exec web sh -c 'echo two >/tmp/mark'
	refused . vmfs write web/ctl snapshot one
	[ "$(vmfs exec web cat /tmp/mark)" = two ]
}
check_restore() {
	has snapshot || skip "there is no snapshot"
	mac=$(vmfs exec web cat /sys/class/net/eth0/address)
	for time in first second; do
		echo "$time time"
		vmfs write web/ctl kill
		vmfs wait web shutdown --timeout 60s
		vmfs write web/ctl restore one
		state paused
		vmfs write web/ctl resume
		within 60 ready
		[ "$(vmfs exec web cat /tmp/mark)" = one ]
		[ "$(vmfs exec web cat /sys/class/net/eth0/address)" = "$mac" ]
		vmfs exec web sh -c 'dd if=/dev/vda bs=512 skip=8 count=1 2>/dev/null' | grep -q 'written by the guest'
	done
}
check_sleep() {
	on_mac && [ -n "${SLEEP:-}" ] || skip "SLEEP=1 lets the Mac sleep for a minute"
	pmset sleepnow
	sleep 20 # on the clock that stands still too
	within 60 ready
	guest=$(vmfs exec web date +%s) host=$(date +%s)
	d=$((guest - host))
	echo "the guest is off by $d s"
	[ ${d#-} -le 2 ]
}
check_power() {
	vmfs write web/ctl poweroff
	vmfs wait web shutdown --timeout 60s
	within 20 gone
	vmfs write web/ctl start
	within 120 ready
}
check_killed() {
	pid=$(vmfs cat web/pid)
	kill -KILL "$pid"
	vmfs wait web shutdown --timeout 60s
	vmfs write web/ctl start
	within 120 ready
}
check_stop() {
	vmfs write web/ctl stop
	vmfs wait web shutdown --timeout 60s
	within 20 gone
}
check_refusals() {
	for line in "disk=path:$dir/x,bps:1M" net=tap:vm0 pci=0000:01:00.0 topology=cores:2 "disk=path:$dir/x,format:qcow2" net=passt; do
		[ "$BACKEND" = vz ] || skip "$BACKEND has most of them"
		echo "$line"
		refused . sh -c "printf '%s\n' '$line' | vmfs write web/config"
	done
}
check_efi() {
	[ "$BACKEND" = vz ] && [ -n "${EFI_DISK:-}" ] || skip "EFI_DISK=FILE names a disk to boot from"
	cp "$EFI_DISK" "$dir/efi.raw"
	vmfs mkdir efi
	printf 'hypervisor=vz\nmemory=1G\nnet=user\ndisk=path:%s\n' "$dir/efi.raw" | vmfs write efi/config
	vmfs write efi/ctl start
	sleep 60
	[ "$(vmfs cat efi/state)" = running ]
	vmfs cat efi/console >"$dir/efi" & c=$!
	sleep 2; kill $c; wait $c || :
	tail -n 5 "$dir/efi"
	[ -s "$dir/efi" ]
	vmfs write efi/ctl stop
}
check_bridge() {
	[ "$BACKEND" = vz ] && [ -n "${BRIDGE:-}" ] || skip "BRIDGE=en0 names an interface, for a vmfs that may"
	grep -q '"bridged"' "$dir/host"
	config bridged "net=bridge:$BRIDGE"
	vmfs write bridged/ctl start
	[ "$(vmfs cat bridged/state)" = running ]
	vmfs write bridged/ctl kill
}
check_left() {
	if on_mac; then pattern="vz-shim.*$dir"; else pattern=$dir/state; fi
	# shellcheck disable=SC2009 # pgrep would find itself in this script's arguments
	ps -axo pid=,command= | grep -- "$pattern" | grep -v -e grep -e 'vmfs serve' | tee "$dir/left"
	[ ! -s "$dir/left" ]
}

echo "This disk is for reading alone." >"$dir/readonly"
dd if=/dev/zero of="$dir/readonly" bs=1048576 seek=1 count=0 2>/dev/null # its size
check system "what this host is"
check signature "vmfs is signed, with the entitlement"
check host "what the framework can do here"
serve || { echo "checklist: the server does not start:" >&2; cat "$dir/server.log" >&2; exit 1; }
check server "a server on a Unix socket that only its user may use"
check owner "who connects is known by the kernel's word"
check start "a Linux guest boots, and its agent answers"
check process "the VM is a process of its own"
check console "the console, both ways, with what was said before"
check pause "pause and resume, ten times over"
check clock "the guest's clock is set by its agent"
check memory "the balloon, up and down, by the guest's word"
check vsock "streams into the guest, ended one direction at a time"
check streams "hundreds of streams, and no descriptor lost"
check listen "streams from the guest, on one port again and again"
check network "a network device, and what a lease says"
check disk "a disk that is written, and one that cannot be"
check snapshot "the state is saved while the VM runs"
check restore "and restored, twice: same identifier, same MAC, same disk"
kill -KILL $server && wait $server 2>/dev/null
serve || echo "FAIL restart    a server after one that was killed" | tee -a "$REPORT"
check_adopted() {
	state running
	kill -0 "$(vmfs cat web/pid)"
	within 30 ready
	vmfs write web/ctl pause
	vmfs write web/ctl resume
}
check adopted "a server that was killed and came back finds the VM, running"
check sleep "the guest's clock after the host has slept"
check power "the power button"
check killed "a VM whose process is killed is shut down, and starts again"
check stop "stop"
check refusals "what the framework cannot do is refused when it is written"
check efi "a system on a disk, by EFI"
check bridge "a bridged network"
check left "nothing is left running"
{
	echo "$passed passed, $failed failed, $skipped skipped"
	if [ $failed -gt 0 ]; then
		echo "--- the server's log"
		tail -n 60 "$dir/server.log"
		for log in "$dir"/state/vms/*/log; do
			echo "--- $log"
			tail -n 40 "$log"
		done 2>/dev/null
	fi
} | tee -a "$REPORT" | sed '/^---/,$d'
echo "The report is $REPORT; please send it back (docs/mac-checklist.md)."
[ $failed -eq 0 ]
