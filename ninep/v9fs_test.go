package ninep

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/guest/guesttest"

	"vmfs/ninep/dial"
)

// v9fsScript is what a guest does with each dialect.
const v9fsScript = `#!/bin/sh
port=$(sed 's/.*ninep.port=\([0-9]*\).*/\1/' /proc/cmdline)
mkdir -p /n
for v in 9p2000.L 9p2000.u 9p2000; do
	echo "== $v"
	mount -t 9p -o trans=tcp,port=$port,version=$v,access=any,msize=65536,cache=none 10.0.2.2 /n || continue
	ls /n | tr '\n' ' '; echo
	cat /n/a /n/dir/sub/deep
	echo new > /n/b; cat /n/b
	echo more >> /n/empty/log; echo again >> /n/empty/log; cat /n/empty/log
	mkdir /n/empty/d && mv /n/empty/log /n/empty/d/moved && cat /n/empty/d/moved && rm /n/empty/d/moved && rmdir /n/empty/d && echo tidy
	cat /n/nothing 2>&1
	mkdir /n/dir 2>&1
	rmdir /n/dir 2>&1
	chmod 640 /n/a; stat -c '%a %s %F' /n/a
	[ $v = 9p2000 ] || { ln -s ../a /n/empty/sym; readlink /n/empty/sym; cat /n/empty/sym; rm /n/empty/sym; }
	dd if=/dev/zero of=/n/empty/z bs=100000 count=3 2>/dev/null; stat -c %s /n/empty/z; rm /n/empty/z
	head -n 3 /n/t
	echo "small $(dd if=/n/t bs=4096 count=1 2>/dev/null | wc -l) large $(dd if=/n/t bs=65514 count=1 2>/dev/null | wc -l) larger $(dd if=/n/t bs=131072 count=1 2>/dev/null | wc -l)"
	cat /n/s & pid=$!
	sleep 1
	echo "still $(cat /n/a)"
	kill -TERM $pid; wait $pid; echo "cat ended $?"
	cat /n/s & pid=$!
	sleep 1
	kill -KILL $pid; wait $pid; echo "cat ended $?"
	umount /n && echo unmounted
done
`

// TestV9fs mounts the server with Linux's own client, in each dialect.
func TestV9fs(t *testing.T) {
	if os.Getenv("CI") != "true" && os.Getenv("VMFS_V9FS") == "" {
		t.Skip("boots two guests under emulation, which takes a minute: set VMFS_V9FS=1")
	}
	for _, series := range []string{"6.1", "6.12"} {
		t.Run(series, func(t *testing.T) { v9fsRing(t, series) })
	}
}

func v9fsRing(t *testing.T, series string) {
	kernel, initrd := guesttest.V9FS(t, series, guesttest.Script(v9fsScript))
	checkLeaks(t)
	fs := basicTree()
	fs.streamFile("s")
	lines := fs.streamFile("t")
	log := new(logBuf)
	srv := &Server{Attacher: fs, Log: slog.New(slog.NewTextHandler(log, nil))}
	ln, err := dial.Listen(t.Context(), "tcp!127.0.0.1!0")
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() { done <- srv.Serve(context.Background(), ln) }()
	ctx, cancel := context.WithCancel(t.Context())
	fed := make(chan struct{})
	pad := strings.Repeat("-", 1000) // each record is a request, and the largest read takes all of them that fit
	go func() {
		defer close(fed)
		for n := 0; ; n++ {
			select {
			case lines.in <- fmt.Sprintf("line %d %s\n", n, pad):
			case <-ctx.Done():
				return
			}
		}
	}()
	vm := guesttest.Start(t, guesttest.Config{
		Deadline: 4 * time.Minute,
		Kernel:   kernel, Initrd: initrd,
		Append: fmt.Sprintf("vmfs.net=user ninep.port=%d", ln.Addr().(*net.TCPAddr).Port),
		Args:   []string{"-netdev", "user,id=n0", "-device", "virtio-net-pci,netdev=n0"},
	})
	vm.ExpectText("script exited")
	out := vm.Output()
	t.Log(out)
	cancel()
	<-fed
	sctx, scancel := context.WithTimeout(context.Background(), patience)
	defer scancel()
	require.NoError(t, srv.Shutdown(sctx))
	require.NoError(t, <-done)
	require.Zero(t, fs.open.Load(), "Files left open")
	for _, v := range []string{"9p2000.L", "9p2000.u", "9p2000"} {
		_, part, ok := strings.Cut(out, "== "+v+"\n")
		require.True(t, ok, v)
		part, _, _ = strings.Cut(part, "== ")
		for _, want := range []string{
			"a b boom dir empty link s slow t ", "alpha\ndown here\n", "\nnew\n", "\nmore\nagain\n", "\nmore\nagain\ntidy\n",
			"nothing': No such file", "File exists", "Directory not empty", "640 6 regular file", "\n300000\n", "line ",
			"\nstill alpha\n", "cat ended 143", "cat ended 137", "unmounted",
		} {
			assert.Contains(t, part, want, v)
		}
		if v != "9p2000" {
			// A read(2) ends with the record, also if it is of a little more
			// than a message holds.
			assert.Contains(t, part, "\nsmall 1 large 1 larger", v)
		}
		if v != "9p2000" {
			assert.Contains(t, part, "\n../a\nalpha\n", v)
		}
	}
	assert.NotContains(t, log.String(), "level=WARN")
}
