# What the stories of v9fs*.sh have in common. They run in a guest, which mounts the
# server with its own v9fs. The test has put PORT, KERNEL and INITRD before this; it
# reads the lines "ok …" and "not ok …".

fails=0
ok() { echo "ok $*"; }
not_ok() { echo "not ok $*"; fails=$((fails + 1)); }
# is WHAT GOT WANT
is() { if [ "$2" = "$3" ]; then ok "$1"; else not_ok "$1: got <$2>, want <$3>"; fi; }
# has WHAT TEXT PART
has() { case $2 in *"$3"*) ok "$1" ;; *) not_ok "$1: <$2> has no <$3>" ;; esac; }
# until_file FILE TEXT: waits for a line
until_file() {
	i=0
	while ! grep -q -- "$2" "$1" 2>/dev/null; do
		i=$((i + 1))
		if [ $i -gt 600 ]; then not_ok "$1 never had <$2>: $(cat "$1")"; return 1; fi
		usleep 50000
	done
}
mkdir -p /n /tmp
mount -t 9p -o trans=tcp,port=$PORT,version=9p2000.L,access=any,cache=none,msize=1048576 10.0.2.2 /n || { echo "not ok mount"; exit 1; }
cd /n || exit 1
