#!/bin/sh
# demo.sh: the whole life of a virtual machine as a directory, told as it happens.
#
#   examples/demo.sh                              a real guest under QEMU (build it first: make guest)
#   BACKEND=cloud-hypervisor examples/demo.sh     the same under Cloud Hypervisor, on a host with KVM
#   BACKEND=sim examples/demo.sh                  the same with the simulated hypervisor
#
# Everything happens in a directory of its own below /tmp, with a server of its
# own; at the end nothing of it is left, on an error neither. `make demo` installs
# and builds what this needs and then runs it.
set -eu

here=$(cd "$(dirname "$0")/.." && pwd)
BACKEND=${BACKEND:-qemu}
VMFS=${VMFS:-$here/bin/vmfs}
GUEST=${GUEST:-$here/build/guest}

fail() { echo "demo: $*" >&2; exit 1; }

[ -x "$VMFS" ] || fail "$VMFS is not there: run make build"
case $BACKEND in
qemu|cloud-hypervisor) [ -f "$GUEST/vmlinuz" ] && [ -f "$GUEST/initrd" ] || fail "$GUEST has no guest: run make guest" ;;
sim) ;;
*) fail "BACKEND is qemu, cloud-hypervisor or sim, not $BACKEND" ;;
esac

dir=$(mktemp -d /tmp/vmfs-demo.XXXXXX)
bin=$dir/bin; mkdir "$bin"; ln -s "$VMFS" "$bin/vmfs"; PATH=$bin:$PATH
VMFS_ADDR=unix!$dir/vmfs.sock; export VMFS_ADDR
server= console= events=

# The server is in a session of its own: Ctrl-C is for this script, which needs
# it to clean up.
if command -v setsid >/dev/null; then detach=setsid; else detach=; fi

cleanup() {
	status=$?
	trap '' INT TERM
	trap - EXIT
	if [ -n "$server" ] && kill -0 "$server" 2>/dev/null; then
		vmfs write web/ctl kill 2>/dev/null || :
	fi
	for pid in $console $events $server; do
		kill "$pid" 2>/dev/null || :
		wait "$pid" 2>/dev/null || :
	done
	if [ "$status" -eq 130 ]; then
		echo "demo: interrupted" >&2
	elif [ "$status" -ne 0 ]; then
		echo "demo: failed; the server's log and the console end with:" >&2
		tail -n 20 "$dir/server.log" "$dir/console" >&2 2>/dev/null || :
	fi
	for process in /proc/[0-9]*; do # those of a VM that no server has ended
		! grep -aqs -- "$dir/state" "$process/cmdline" || kill -KILL "${process#/proc/}" 2>/dev/null || :
	done
	rm -rf "$dir"
	exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# say prints a heading, run prints a command and then does it.
say() { printf '\n# %s\n' "$*"; }
run() { printf '$ %s\n' "$*"; eval "$*" 2>&1; }

# until_line FILE TEXT [SECONDS] waits until the file has a line with the text.
until_line() {
	tries=$((${3:-60} * 10))
	while ! grep -q -- "$2" "$1" 2>/dev/null; do
		tries=$((tries - 1))
		[ $tries -gt 0 ] || fail "nothing with \"$2\" came within ${3:-60} s"
		sleep 0.1
	done
}

serve() {
	printf '$ vmfs serve --listen %s --state %s &\n' "'unix!$dir/vmfs.sock'" "$dir/state"
	: >"$dir/ready"
	$detach vmfs serve --listen "$VMFS_ADDR" --state "$dir/state" >"$dir/ready" 2>>"$dir/server.log" &
	server=$!
	until_line "$dir/ready" listening 10
}

# follow copies the console and the events to files while the server is there.
follow() {
	: >"$dir/console"
	vmfs cat web/console >"$dir/console" 2>/dev/null &
	console=$!
	vmfs cat web/events >>"$dir/events" 2>/dev/null &
	events=$!
}

# guest_memory asks the guest itself, on its console.
guest_memory() {
	lines=$(wc -l <"$dir/console")
	case $BACKEND in
	sim) ask=mem; answer='^[0-9]' ;;
	*) ask='grep MemTotal /proc/meminfo'; answer='MemTotal: ' ;;
	esac
	printf '$ vmfs write web/console "%s"\n' "$ask"
	vmfs write web/console "$ask"
	tries=200
	until tail -n +"$((lines + 1))" "$dir/console" | grep -v -- "$ask" | grep -- "$answer" | head -n 1 | tr -d '\r' | grep .; do
		tries=$((tries - 1))
		[ $tries -gt 0 ] || fail "the guest did not answer on its console"
		sleep 0.1
	done
}

say "A server, on a socket of its own. It could be mounted as well:"
serve
run 'vmfs mount --print /mnt/vmfs'
run 'vmfs cat version'
run 'vmfs ls -l'

say "A VM is made as a directory is. (What happens to it is followed from here on, see the end.)"
run 'vmfs mkdir web'
follow
run 'vmfs ls web'
run 'vmfs cat web/state'

say "Its configuration is a file of lines; what is wrong is refused, with the reason."
case $BACKEND in
qemu|cloud-hypervisor)
	run "printf 'hypervisor=$BACKEND\nvcpus=1\nmemory=256M\nhotplug=512M\nvsock.cid=3\nkernel=$GUEST/vmlinuz\ninitrd=$GUEST/initrd\nargs=console=ttyS0 quiet\n' | vmfs write web/config"
	;;
sim)
	run "printf 'hypervisor=sim\nmemory=256M\nhotplug=512M\nvsock.cid=3\n' | vmfs write web/config"
	;;
esac
run 'vmfs cat web/config'
run 'vmfs write web/config memory=lots || echo "exit status $?"'

say "Start it, and see it boot on its console: what it said so far, and then what it says."
case $BACKEND in
sim) ready='sim guest ready' lines=3 ;;
*) ready='vmfs guest ready' lines=5 ;;
esac
run 'vmfs write web/ctl start'
run 'vmfs cat web/state'
until_line "$dir/console" "$ready" 60
run "vmfs cat web/console | head -n $lines"
run 'vmfs cat web/info'

say "Reading ctl tells what it would take now."
run 'vmfs cat web/ctl'

say "Pause and resume; somebody else waits for it."
vmfs wait web paused --timeout 30s >"$dir/wait" & waiter=$!
run 'vmfs write web/ctl pause'
run 'vmfs cat web/state'
wait "$waiter"
printf '$ vmfs wait web paused --timeout 30s    (was waiting until then)\n'; cat "$dir/wait"
run 'vmfs write web/ctl pause || echo "exit status $?"'
run 'vmfs write web/ctl resume'

say "Memory: up by hot-plug, down by the balloon, and the guest's own view of it on its console."
[ "$BACKEND" = sim ] || echo "# (Its kernel keeps a part for itself before it counts: look at how much it changes.)"
guest_memory
run 'vmfs write web/ctl memory 512M wait 120s'
run 'vmfs cat web/memory'
guest_memory
run 'vmfs write web/ctl memory 192M wait 120s'
run 'vmfs cat web/memory'
guest_memory
run 'vmfs write web/memory 256M'

say "Streams into the guest, without a network: a file for each port."
case $BACKEND in
qemu|cloud-hypervisor)
	run "echo 'uname -sm' | vmfs rdwr web/vsock/1024"
	run "vmfs exec web sh -c 'exit 7' || echo \"exit status \$?\""
	run 'vmfs exec web tar -C /etc -cf - . | tar -tf - | head -n 3'
	;;
sim) run "echo hello | vmfs rdwr web/vsock/7    # the guest's echo" ;;
esac
run 'vmfs cat web/vsock/4242 || echo "exit status $?"'

if [ "$BACKEND" != sim ]; then
	say "The server is killed. The VM does not notice, and the next server finds it again."
	run 'vmfs cat web/pid'
	pid=$(vmfs cat web/pid)
	run "kill -KILL $server"
	wait "$server" 2>/dev/null || :
	wait "$console" 2>/dev/null || :
	wait "$events" 2>/dev/null || :
	kill -0 "$pid" || fail "the VM ended with the server"
	serve
	follow
	run 'vmfs cat web/state web/pid'
	[ "$(vmfs cat web/pid)" = "$pid" ] || fail "it is another VM"
	guest_memory
	run 'vmfs exec web uptime'
else
	say "(A simulated VM lives in the server, so the server is not killed here.)"
fi

say "Ask the guest to power off, and wait for it."
run 'vmfs write web/ctl poweroff'
run 'vmfs wait web shutdown --timeout 60s'
run 'vmfs cat web/info | grep reason'

say "What happened, as vmfs cat web/events told it when it happened:"
until_line "$dir/events" ' exited ' 10
[ "$BACKEND" = sim ] || echo "# (A number is missing where there was no server to ask, or nobody asked yet.)"
cat "$dir/events"

say "A VM that does not run is removed as a directory is."
run 'vmfs rmdir web'
run 'vmfs ls'
kill -INT "$server"; wait "$server" || fail "the server ended with status $?"
server=
say "That was all: nothing is left running."
