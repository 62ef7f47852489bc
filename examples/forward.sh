#!/bin/sh
# forward.sh [TCP-PORT [VSOCK-PORT]]: a TCP port of the host that leads to a vsock
# port of the guest, with socat and vmfs rdwr, for a guest without a network. Here it
# is the guest's echo, and a client tries it out; without a trial run
#
#   socat TCP-LISTEN:8022,bind=127.0.0.1,fork,reuseaddr EXEC:'vmfs rdwr web/vsock/22'
#
# It needs a VM with vsock.cid and vmfs's guest agent in $VM; see with-guest.sh.
set -eu
[ -n "${VM:-}" ] || exec "$(dirname "$0")/with-guest.sh" "$0" "$@"
command -v socat >/dev/null || { echo "forward: there is no socat: apt-get install socat" >&2; exit 1; }
tcp=${1:-$((20000 + $$ % 20000))} port=${2:-7}

socat "TCP-LISTEN:$tcp,bind=127.0.0.1,fork,reuseaddr" "EXEC:vmfs rdwr $VM/vsock/$port" &
forwarder=$!
trap 'kill $forwarder 2>/dev/null; wait $forwarder 2>/dev/null || :' EXIT

echo "# 127.0.0.1:$tcp leads to port $port of the guest:"
for word in one two three; do
	# The end of the input is passed on to the guest, and its own comes back.
	echo "$word through the guest" | socat -t 10 - "TCP:127.0.0.1:$tcp,retry=50,interval=0.1"
done
