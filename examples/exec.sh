#!/bin/sh
# exec.sh: commands run in a guest, as filters and with their exit status.
# It needs a VM with vsock.cid and vmfs's guest agent in $VM; see with-guest.sh.
set -eu
[ -n "${VM:-}" ] || exec "$(dirname "$0")/with-guest.sh" "$0" "$@"
[ -n "${WORK:-}" ] || { WORK=$(mktemp -d); trap 'rm -rf "$WORK"' EXIT; }

echo "# A line for the guest's shell, by a file that is a stream:"
echo 'uname -sm' | vmfs rdwr "$VM/vsock/1024"

echo "# A program with its own input, output, errors and exit status:"
vmfs exec "$VM" uname -sm
printf 'b\nc\na\n' | vmfs exec "$VM" sort
vmfs exec "$VM" sh -c 'echo to stderr >&2; exit 7' 2>"$WORK/errors" || echo "exit status $?, and it said: $(cat "$WORK/errors")"

echo "# The guest is one part of a pipeline of the host:"
vmfs exec "$VM" cat /proc/mounts | awk '{ print $3 }' | sort | uniq -c
