#!/bin/sh
# guest-log.sh: the guest sends its log to a file of the host, over vsock. The host
# listens by opening a file; no network is there, and no file is shared.
# It needs a VM with vsock.cid and vmfs's guest agent in $VM; see with-guest.sh.
set -eu
[ -n "${VM:-}" ] || exec "$(dirname "$0")/with-guest.sh" "$0" "$@"
[ -n "${WORK:-}" ] || { WORK=$(mktemp -d); trap 'rm -rf "$WORK"' EXIT; }

echo "# The host waits for the guest at port 514:"
vmfs cat "$VM/vsock/listen/514" >"$WORK/guest.log" &
listener=$!

echo "# The guest sends what its kernel has said; dmesg -w would go on with it."
until vmfs exec "$VM" sh -c 'dmesg | vsock dial 514' 2>/dev/null; do sleep 0.1; done
wait $listener
tail -n 3 "$WORK/guest.log"
echo "$(wc -l <"$WORK/guest.log") lines"
[ -s "$WORK/guest.log" ]
