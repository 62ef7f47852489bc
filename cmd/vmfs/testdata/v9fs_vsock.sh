#!/bin/sh
# Streams into another guest.
. /story/lib.sh

# ends WHAT PID: waits for a process of this shell, but not for ever
ends() {
	i=0
	while kill -0 $2 2>/dev/null; do
		i=$((i + 1))
		if [ $i -gt 600 ]; then not_ok "$1 does not end"; kill -9 $2; return 1; fi
		usleep 50000
	done
	wait $2
}

mkdir web
printf 'memory=256M\nvsock.cid=3\nkernel=%s\ninitrd=%s\nargs=console=ttyS0 quiet\nqemu.accel=tcg\n' "$KERNEL" "$INITRD" >web/config
cat web/vsock/7 2>/tmp/e && not_ok "a port of a VM that does not run" || has "a port of a VM that does not run" "$(cat /tmp/e)" "No such device"
echo start >web/ctl && ok start || not_ok "start: $(cat web/error)"
i=0; until cat web/vsock/13 >/tmp/date 2>/dev/null; do i=$((i + 1)); [ $i -gt 600 ] && break; usleep 100000; done
has "a port that sends and ends" "$(cat /tmp/date)" UTC

# Names and errors.
is "what is listed" "$(ls web/vsock | tr '\n' ' ')" "clone listen "
for n in 0 4294967295 web 007; do
	cat web/vsock/$n 2>/tmp/e && not_ok "port $n" || has "port $n" "$(cat /tmp/e)" "No such file"
done
cat web/vsock/4242 2>/tmp/e && not_ok "a port nobody listens on" || has "a port nobody listens on" "$(cat /tmp/e)" "Connection refused"
has "the whole text" "$(cat web/error)" "no listener on this port"

# One descriptor for both directions will do where one waits for the other.
exec 4<>web/vsock/1024
echo 'echo $((6*7))' >&4
is "a command on one descriptor" "$(cat <&4 | tr '\n' ' ')" "42 status 0 "
exec 4>&-
# What is written is delivered at the close, and then the guest's input ends.
(echo '-cat >/tmp/x; echo end >>/tmp/x'; echo text) >web/vsock/1024 && ok "a write and a close" || not_ok "a write and a close"
exec 4<>web/vsock/1024
echo '-until grep -qs end /tmp/x; do sleep 0.1; done; cat /tmp/x' >&4
is "what came of it" "$(cat <&4 | tr '\n' ' ')" "text end "
exec 4>&-

# Two shells on one stream, both ways at once, by two opens of a conversation's
# data. With > the writer would wait for the reader on Linux 6.12, which truncates
# under a lock that the reader holds: hence >>.
exec 3<>web/vsock/clone
read -r k <&3
has "the conversation's name" "$k" c
is "it is listed" "$(ls web/vsock | tr '\n' ' ')" "$k clone listen "
cat web/vsock/$k/data 2>/tmp/e && not_ok "data before connect" || has "data before connect" "$(cat /tmp/e)" "not connected"
echo connect 7 >&3 && ok connect || not_ok "connect: $(cat web/error)"
cat web/vsock/$k/data >/tmp/out & reader=$!
for w in one two three; do
	usleep 300000 # so that the reader blocks
	echo $w >>web/vsock/$k/data && ok "write beside a blocked reader" || not_ok "write of $w"
	until_file /tmp/out $w && ok "$w came back at once"
done
has status "$(cat web/vsock/$k/status | tr '\n' ' ')" "state=established port=7 in=14 out=14 "
dd if=/dev/urandom of=/tmp/big bs=1M count=4 2>/dev/null
(printf 'one\ntwo\nthree\n'; cat /tmp/big) >/tmp/want
cat /tmp/big >>web/vsock/$k/data & writer=$!
ends "four megabytes" $writer && ok "four megabytes were written" || not_ok "writing: $?"
echo shutdown write >&3 && ok "shutdown write" || not_ok "shutdown write"
ends "the reader" $reader
cmp /tmp/want /tmp/out && ok "both ways at once, nothing is lost" || not_ok "what came back differs"
exec 3>&-
i=0; while [ -d web/vsock/$k ] && [ $i -lt 100 ]; do i=$((i + 1)); usleep 50000; done
is "the conversation is gone" "$(ls web/vsock | tr '\n' ' ')" "clone listen "

# The guest connects to the host.
cat web/vsock/listen/600 >/tmp/in & listener=$!
usleep 500000
exec 4<>web/vsock/1024
echo 'echo from the guest | vsock dial 600' >&4
is "the guest's exit status" "$(cat <&4)" "status 0"
exec 4>&-
ends "listen" $listener
is "what the guest sent" "$(cat /tmp/in)" "from the guest"

# A blocked reader, and one that waits for the guest, die at once.
for f in vsock/7 vsock/listen/601; do
	cat web/$f & p=$!
	usleep 500000
	kill -9 $p
	i=0; while kill -0 $p 2>/dev/null && [ $i -lt 60 ]; do i=$((i + 1)); usleep 50000; done
	[ $i -lt 60 ] && ok "a reader of $f dies" || not_ok "a reader of $f cannot be killed"
done

# The VM ends: so does what reads its streams.
cat web/vsock/7 >/tmp/out 2>&1 & p=$!
usleep 500000
echo kill >web/ctl && ok kill || not_ok kill
ends "a reader of a VM that was killed" $p; ok "a reader of a VM that was killed ends"
rmdir web && ok rmdir || not_ok rmdir
cd / && umount /n && ok umount || not_ok umount
echo "fails $fails"
[ $fails -eq 0 ]
