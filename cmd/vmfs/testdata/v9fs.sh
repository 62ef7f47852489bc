#!/bin/sh
# The whole life of a VM on another hypervisor.
. /story/lib.sh

# now: hundredths of a second since the boot, without a process of its own
now() { read -r up _ </proc/uptime; t=${up%.*}${up#*.}; }
# within WHAT LIMIT: since the time in $t0 no more than LIMIT hundredths have passed
within() { now; d=$((t - t0)); if [ $d -le "$2" ]; then ok "$1 ($d/100 s)"; else not_ok "$1: took $d/100 s, limit $2/100 s"; fi; }
# end PID…: ends readers, when they wait for something to read. A signal that comes
# between two reads this client forgets until the second has its answer: it clears the
# mark of it before it waits.
end() { usleep 500000; kill "$@" 2>/dev/null; wait "$@" 2>/dev/null; }
# settle STATE: waits for the VM's state
settle() { i=0; while read -r s <web/state; [ "$s" != "$1" ]; do i=$((i + 1)); [ $i -gt 1200 ] && break; usleep 50000; done; is "state is $1" "$s" "$1"; }

ok mounted

# The root.
is "names in the root" "$(ls | tr '\n' ' ')" "backends clone ctl events version "
has "version" "$(cat version)" "vmfs"
has "dialects" "$(cat version)" "9P2000.L 9P2000.u 9P2000"
has "back ends" "$(ls backends)" "qemu"
has "QEMU's version" "$(cat backends/qemu/version)" "."
has "QEMU's capabilities" "$(cat backends/qemu/capabilities)" "pause"
has "the server's verbs" "$(cat ctl)" "create NAME"

# A VM is made and configured.
mkdir web && ok mkdir || not_ok mkdir
mkdir web 2>/tmp/e && not_ok "mkdir twice" || has "mkdir twice" "$(cat /tmp/e)" "exists"
mkdir ctl 2>/tmp/e && not_ok "mkdir ctl" || has "mkdir ctl" "$(cat /tmp/e)" "exists"
mkdir 'b d' 2>/tmp/e && not_ok "mkdir of a bad name" || has "mkdir of a bad name" "$(cat /tmp/e)" "nvalid argument"
is "files of a VM" "$(ls web | tr '\n' ' ')" "capabilities config console ctl error events info log memory pid snapshots state vsock wait "
is "state of a new VM" "$(cat web/state)" created
is "pid of a new VM" "$(cat web/pid)" ""
echo memory=256M >web/config && ok "config >" || not_ok "config >"
printf 'hotplug=256M\nkernel=%s\ninitrd=%s\n' "$KERNEL" "$INITRD" >>web/config && ok "config >>" || not_ok "config >>"
echo "args=console=ttyS0 quiet" >>web/config
echo qemu.accel=tcg >>web/config
has "config keeps what > wrote" "$(cat web/config)" "memory=256M"
has "config has what >> added" "$(cat web/config)" "hotplug=256M"
sum=$(md5sum <web/config)

# Wrong values: an exit status, the whole text in error, nothing lost.
for line in vcpus=none memory=12Q frob=1 'memory' 'disk=path:rel.img'; do
	echo "$line" >web/config 2>/tmp/e; st=$?
	[ $st -ne 0 ] && ok "status of config $line" || not_ok "status of config $line: $st"
	has "error of config $line" "$(cat web/error)" "config line 1"
	is "config after $line" "$(md5sum <web/config)" "$sum"
done
is "what the shell says" "$(sh -c 'echo frob 12 >web/ctl' 2>&1 | grep -c .)" 1
for verb in 'frob 12' 'pause now' 'snapshot' "'open quote" 'memory 12Q' 'wait gone'; do
	echo "$verb" >web/ctl 2>/tmp/e; st=$?
	[ $st -ne 0 ] && ok "status of ctl $verb" || not_ok "status of ctl $verb: $st"
	[ -n "$(cat web/error)" ] && ok "error of ctl $verb" || not_ok "error of ctl $verb"
done
echo 'frob 12' >web/ctl 2>/dev/null
has "error names the message" "$(cat web/error)" 'unknown control message: "frob 12"'
# The open ctl says it too, of its own writes alone, also where the kernel loses the errno.
exec 3<>web/ctl 4<>web/ctl
{ echo 'frob 13' >&3; echo 'frob 14' >&4; } 2>/dev/null
has "an open ctl reads as why" "$(cat <&3)" 'unknown control message: "frob 13"'
has "and another as its own" "$(cat <&4)" 'unknown control message: "frob 14"'
{ echo 'frob 15' >&3; } 2>/dev/null
has "also once it was read" "$(cat <&3)" 'frob 15'
exec 3>&- 4>&-
# A configuration in several writes, none of which ends in a line.
(printf 'memory=25'; printf '6M\nhot'; printf 'plug=256M\nvcp'; printf 'us=1') >>web/config && ok "config in pieces" || not_ok "config in pieces: $(cat web/error)"
is "config after it" "$(md5sum <web/config)" "$sum"
(printf 'memory=64M\n'; printf 'frob=1\n') >web/config 2>/dev/null; is "config whose second write failed" "$(md5sum <web/config)" "$sum"
echo pause >web/ctl 2>/dev/null && not_ok "pause before start" || has "pause before start" "$(cat web/error)" "start it first"
for f in web/state web/wait web/capabilities web/info web/error web/events web/log web/pid events version backends/qemu/version; do
	{ echo x >$f; } 2>/tmp/e && not_ok "> $f" || has "> $f" "$(cat /tmp/e)" "ermission denied"
	{ echo x >>$f; } 2>/tmp/e && not_ok ">> $f" || has ">> $f" "$(cat /tmp/e)" "ermission denied"
done
for f in web/config web/memory web/log web/error web/info web/capabilities; do cat $f >/dev/null && ok "cat $f" || not_ok "cat $f"; done
{ echo x >>web/console; } 2>/dev/null && not_ok "console of a VM that does not run" || has "console of a VM that does not run" "$(cat web/error)" "console"
echo 'create db' >ctl && is "create by ctl" "$(cat db/state)" created || not_ok "create by ctl"
echo 'create db' >ctl 2>/dev/null && not_ok "create twice" || ok "create twice is refused"
echo 'delete db' >>ctl && [ ! -e db ] && ok "delete by ctl" || not_ok "delete by ctl"
cat web/nothing 2>/tmp/e && not_ok "no such file" || has "no such file" "$(cat /tmp/e)" "No such file"
touch web/new 2>/tmp/e && not_ok "create in a VM" || ok "create in a VM is refused"
rm web/ctl 2>/tmp/e && not_ok "rm of a file" || ok "rm of a file is refused"
mv web db 2>/tmp/e && not_ok "mv of a VM" || ok "mv of a VM is refused"

# Events: each line arrives when it happens.
while read -r line; do now; echo "$t $line"; done <web/events >/tmp/events &
events=$!
cat events >/tmp/all & all=$!
cat web/console >/tmp/console & console=$!
cat web/wait >/tmp/wait & waiter=$!
sleep 1

echo start >web/ctl && ok start || not_ok "start: $(cat web/error)"
is "state after start" "$(cat web/state)" running
wait $waiter; is "wait woke with" "$(cat /tmp/wait)" running
is "error after a success" "$(cat web/error)" ""
until_file /tmp/console 'vmfs guest ready' && ok "console shows the boot"
[ "$(cat web/pid)" -gt 1 ] && ok "pid is there" || not_ok "pid"
has "info" "$(cat web/info)" "hypervisor=qemu"
has "capabilities" "$(cat web/capabilities)" "pause"
has "ctl shows pause" "$(cat web/ctl)" "pause"
chmod 750 web && chgrp 1 web && chown 1 web && ok "chmod, chgrp, chown" || not_ok "chmod, chgrp, chown"
is "attributes" "$(stat -c '%a %u %g' web web/ctl | tr '\n' ' ')" "750 1 1 640 1 1 "
mkdir other && rmdir other && ok "another VM comes and goes" || not_ok "another VM comes and goes"
echo kernel=/x >>web/config 2>/dev/null && not_ok "kernel of a running VM" || has "kernel of a running VM" "$(cat web/error)" "kernel"
rmdir web 2>/tmp/e && not_ok "rmdir of a running VM" || has "rmdir of a running VM" "$(cat /tmp/e)" "busy"

for i in 1 2 3; do
	now; t0=$t
	echo pause >web/ctl || not_ok "pause $i: $(cat web/error)"
	is "state after pause $i" "$(cat web/state)" paused
	until_file /tmp/events 'paused' && within "the event of pause $i came at once" 200
	: >/tmp/events
	echo resume >>web/ctl || not_ok "resume $i"
	is "state after resume $i" "$(cat web/state)" running
	until_file /tmp/events 'running' && ok "the event of resume $i"
	: >/tmp/events
done
until_file /tmp/all ' web paused' && ok "the root's events have it too"

# The console, both ways. Linux 6.12 truncates a file only when nobody reads it: with
# > the shell would wait for the reader.
echo 'echo con$((40+2))sole' >>web/console && until_file /tmp/console con42sole && ok "the console answers"
(cat web/console & c=$!; sleep 1; kill $c) >/tmp/console2 2>/dev/null
has "a second reader gets the scroll-back" "$(cat /tmp/console2)" "vmfs guest ready"

# Memory.
echo 320M >web/memory && ok "memory >" || not_ok "memory >: $(cat web/error)"
echo memory 384M wait 60s >web/ctl && ok "memory wait" || not_ok "memory wait: $(cat web/error)"
is "memory" "$(cat web/memory)" 402653184
echo 10G >web/memory 2>/dev/null && not_ok "memory above the ceiling" || has "memory above the ceiling" "$(cat web/error)" "536870912"
is "memory after that" "$(cat web/memory)" 402653184
echo memory 192M wait 60s >web/ctl && is "memory below the base" "$(cat web/memory)" 201326592 || not_ok "memory down: $(cat web/error)"

# A snapshot, as mkdir makes one.
mkdir web/snapshots/one && ok "mkdir of a snapshot" || not_ok "mkdir of a snapshot: $(cat web/error)"
is "it is there" "$(ls web/snapshots)" one
has "its config" "$(cat web/snapshots/one/config)" "hotplug=256M"
mkdir web/snapshots/one 2>/tmp/e && not_ok "mkdir of it again" || has "mkdir of it again" "$(cat /tmp/e)" "exists"
rmdir web/snapshots/one && is "rmdir of it" "$(ls web/snapshots)" "" || not_ok "rmdir of a snapshot: $(cat web/error)"

# A blocked reader dies at once; its exit status is the signal's.
# The emulated machine has hiccups, so it is the best of three.
for sig in INT KILL TERM; do
	best=9999
	for i in 1 2 3; do
		now; t0=$t
		timeout -s $sig 1 cat web/wait; st=$?
		now; d=$((t - t0 - 100)); [ $d -lt $best ] && best=$d
		[ $st -ne 0 ] || not_ok "status after SIG$sig: $st"
		[ $best -le 100 ] && break
	done
	[ $best -le 100 ] && ok "cat wait ends within a second by SIG$sig ($best/100 s)" || not_ok "cat wait took $best/100 s to end by SIG$sig"
done
now; t0=$t
echo wait shutdown >web/ctl & w=$!
usleep 500000; kill -9 $w; wait $w 2>/dev/null
within "a blocked write ends by SIGKILL" 200

# While ten readers block, every file answers.
pids=
for i in 1 2 3 4; do cat web/wait >/dev/null & pids="$pids $!"; done
for i in 1 2 3; do cat web/events >/dev/null & pids="$pids $!"; done
for i in 1 2; do cat web/console >/dev/null & pids="$pids $!"; done
cat events >/dev/null & pids="$pids $!"
sleep 1
for f in web/state web/memory web/capabilities web/info web/error web/ctl web/config web/pid web/log version ctl backends/qemu/version; do
	# The best of some: the emulated machine has hiccups of its own.
	best=999
	for i in 1 2 3 4 5 6 7 8 9 10; do
		now; t0=$t
		cat $f >/dev/null
		now; d=$((t - t0)); [ $d -lt $best ] && best=$d
		[ $best -le 10 ] && break
	done
	[ $best -le 10 ] && ok "$f answers beside ten blocked readers ($best/100 s)" || not_ok "$f took $best/100 s beside ten blocked readers"
done
now; t0=$t; ls -l web >/dev/null; within "ls -l beside ten blocked readers" 100
now; t0=$t; kill -9 $pids; wait $pids 2>/dev/null
within "ten blocked readers die" 100

# The NMI button: the guest's kernel tells of it.
: >/tmp/console
echo nmi >web/ctl && ok nmi || not_ok "nmi: $(cat web/error)"
until_file /tmp/console 'NMI received' && ok "the guest got the NMI"

# reset, then the end by the guest itself.
: >/tmp/console
echo reset >web/ctl && ok reset || not_ok "reset: $(cat web/error)"
until_file /tmp/console 'vmfs guest ready' && ok "booted again after reset"
cat web/wait >/tmp/wait & waiter=$!
usleep 300000
echo poweroff >web/ctl && ok poweroff || not_ok "poweroff: $(cat web/error)"
wait $waiter; is "wait woke with" "$(cat /tmp/wait)" shutdown
settle shutdown
i=0; while [ -n "$(cat web/pid)" ] && [ $i -lt 200 ]; do i=$((i + 1)); usleep 50000; done
is "pid once QEMU has gone" "$(cat web/pid)" ""
has "the reason" "$(cat web/info)" "guest-shutdown"
until_file /tmp/all ' web shutdown' && ok "the end is in the root's events"

# Again by its own clone of the shell's descriptors, and killed.
echo start >web/ctl && echo kill >web/ctl && ok "start and kill" || not_ok "start and kill: $(cat web/error)"
settle shutdown
exec 3<>clone
read -r name <&3
is "clone names a VM" "$(cat $name/state)" created
echo "set hypervisor=qemu vcpus=2" >&3 && has "the open clone is its ctl" "$(cat $name/config)" "vcpus=2"
exec 3>&-
rmdir $name && ok "rmdir of the clone" || not_ok "rmdir of the clone"

end $events $all $console
rmdir web && ok rmdir || not_ok "rmdir web"
is "the root is as it was" "$(ls | tr '\n' ' ')" "backends clone ctl events version "
cd / && umount /n && ok umount || not_ok umount

# The other dialect that this client speaks: the short of it.
mount -t 9p -o trans=tcp,port=$PORT,version=9p2000.u,access=any,cache=none,msize=65536 10.0.2.2 /n && cd /n || not_ok "mount .u"
is ".u: names in the root" "$(ls | tr '\n' ' ')" "backends clone ctl events version "
mkdir web && ok ".u: mkdir" || not_ok ".u: mkdir"
printf 'hypervisor=sim\nvcpus=3\n' >web/config && ok ".u: config >" || not_ok ".u: config >: $(cat web/error)"
echo vcpus=2 >>web/config
has ".u: >> merges" "$(cat web/config | tr '\n' ' ')" "hypervisor=sim vcpus=2 "
echo hypervisor=sim >web/config
case $(cat web/config) in *vcpus=2*) not_ok ".u: > replaces" ;; *) ok ".u: > replaces" ;; esac
cat web/events >/tmp/events & events=$!
cat web/wait >/tmp/wait & waiter=$!
sleep 1
echo start >web/ctl && ok ".u: start" || not_ok ".u: start: $(cat web/error)"
is ".u: state" "$(cat web/state)" running
wait $waiter; is ".u: wait woke with" "$(cat /tmp/wait)" running
until_file /tmp/events ' web started' && ok ".u: an event comes when it happens"
echo 'frob 12' >web/ctl 2>/tmp/e && not_ok ".u: a bad verb" || ok ".u: a bad verb is refused: $(cat /tmp/e)"
has ".u: its text" "$(cat web/error)" 'unknown control message: "frob 12"'
for sig in INT KILL; do
	now; t0=$t
	timeout -s $sig 1 cat web/wait
	within ".u: cat wait ends by SIG$sig" 300
done
chmod 750 web && chgrp 1 web && ok ".u: chmod, chgrp" || not_ok ".u: chmod, chgrp"
chown 1 web && ok ".u: chown" || not_ok ".u: chown"
is ".u: attributes" "$(stat -c '%a %u %g' web)" "750 1 1"
echo kill >web/ctl && ok ".u: kill" || not_ok ".u: kill"
end $events
rmdir web && ok ".u: rmdir" || not_ok ".u: rmdir"
cd / && umount /n && ok ".u: umount" || not_ok ".u: umount"
echo "fails $fails"
[ $fails -eq 0 ]
