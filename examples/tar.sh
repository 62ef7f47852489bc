#!/bin/sh
# tar.sh: a directory of the guest streamed out, and a file streamed in.
# It needs a VM with vsock.cid and vmfs's guest agent in $VM; see with-guest.sh.
set -eu
[ -n "${VM:-}" ] || exec "$(dirname "$0")/with-guest.sh" "$0" "$@"
[ -n "${WORK:-}" ] || { WORK=$(mktemp -d); trap 'rm -rf "$WORK"' EXIT; }

echo "# The guest's /etc as a tar archive:"
vmfs exec "$VM" tar -C /etc -cf - . >"$WORK/etc.tar"
tar -tf "$WORK/etc.tar" | head -n 5

echo "# The same by nothing but a file of the tree (the dash means: no status line):"
echo '-tar -C /etc -cf - .' | vmfs rdwr "$VM/vsock/1024" | tar -tf - | wc -l

echo "# A file streamed in, and its sum there and here:"
head -c 3000000 /dev/urandom >"$WORK/file"
vmfs exec "$VM" sh -c 'cat >/tmp/file; sha256sum </tmp/file' <"$WORK/file" >"$WORK/there"
sha256sum <"$WORK/file" >"$WORK/here"
cat "$WORK/there"
cmp "$WORK/there" "$WORK/here"
echo "they are the same"
