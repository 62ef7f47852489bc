//go:build linux

package vhostuser

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"vmfs/guest"
	"vmfs/guest/guesttest"
	"vmfs/vsock"
)

// The services of internal/testguest.
const (
	portEcho    = 2000 + 7
	portDiscard = 2000 + 9
	portSource  = 2000 + 19
	portSum     = 2000 + 20
	portStalled = 2000 + 21
	portGoOn    = 2000 + 22
	portDial    = 2000 + 23
	portZeros   = 2000 + 24
	portHangUp  = 2000 + 25
	portWatch   = 2000 + 26
	portWatchUp = 2000 + 27
)

// rig is a real guest, with the device as a process of its own.
type rig struct {
	t       testing.TB
	vm      *guesttest.VM
	program string
	qemu    string // the chardev's socket
	host    string // the device's
	dev     *exec.Cmd
	log     *syncBuffer
	hybrid  *vsock.Hybrid
}

type syncBuffer struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// goBuild builds a command of this package's internal directory.
func goBuild(t testing.TB, dir, name string) string {
	t.Helper()
	out := filepath.Join(dir, name)
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", out, "./internal/"+name)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	b, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", b)
	return out
}

// newRig boots a guest with a kernel of the series.
func newRig(t testing.TB, series string) *rig {
	t.Helper()
	dir := shortDir(t)
	// The program's content and not its path, so that the image is kept.
	testguest, err := os.ReadFile(goBuild(t, dir, "testguest"))
	require.NoError(t, err)
	kernel, initrd := guesttest.Fast(t, guest.Options{
		Package: guesttest.Kernel(t, series, "cloud"),
		Files: []guest.File{
			{Path: "/testguest", Content: testguest, Mode: 0o755},
			guesttest.Script("#!/bin/sh\nexec /testguest\n"),
		},
	})
	r := &rig{
		t: t, program: goBuild(t, dir, "testdevice"), log: &syncBuffer{},
		qemu: filepath.Join(dir, "q"), host: filepath.Join(dir, "v"),
	}
	r.hybrid = &vsock.Hybrid{Socket: r.host, Timeout: patience}
	r.startDevice()
	t.Cleanup(func() {
		if r.dev.ProcessState == nil {
			_ = r.dev.Process.Kill()
			_ = r.dev.Wait()
		}
		if t.Failed() {
			t.Logf("device:\n%s\nconsole:\n%s", r.log, r.vm.Output())
		}
	})
	r.vm = guesttest.Start(t, guesttest.Config{Kernel: kernel, Initrd: initrd, Args: []string{
		"-object", "memory-backend-memfd,id=mem,size=256M,share=on", "-machine", "memory-backend=mem",
		"-chardev", "socket,id=vs,path=" + r.qemu + ",server=on,wait=on",
		"-device", "pcie-root-port,id=port0", "-device", "vhost-user-vsock-pci,chardev=vs,id=vsock0,bus=port0",
		"-action", "reboot=reset",
	}})
	r.vm.ExpectText("testguest: serving")
	return r
}

func (r *rig) startDevice() {
	r.t.Helper()
	r.dev = exec.Command(r.program, "-qemu", r.qemu, "-socket", r.host, "-cid", "42")
	r.dev.Stderr = r.log
	require.NoError(r.t, r.dev.Start())
}

// dial connects to a port of the guest.
func (r *rig) dial(port int) vsock.Conn {
	r.t.Helper()
	c, err := r.hybrid.DialVsock(context.Background(), port)
	require.NoError(r.t, err)
	r.t.Cleanup(func() { _ = c.Close() })
	require.NoError(r.t, c.SetDeadline(time.Now().Add(patience)))
	return c.(vsock.Conn)
}

// ask writes a request and returns all that is answered.
func (r *rig) ask(port int, format string, args ...any) string {
	r.t.Helper()
	c := r.dial(port)
	_, err := fmt.Fprintf(c, format, args...)
	require.NoError(r.t, err)
	b, err := io.ReadAll(c)
	require.NoError(r.t, err)
	require.NoError(r.t, c.Close())
	return string(b)
}

// works checks that new streams do.
func (r *rig) works() {
	r.t.Helper()
	require.NoError(r.t, exchange(r.dial(portEcho), 5, 100<<10))
}

func (r *rig) status() Status {
	r.t.Helper()
	st, err := GetStatus(context.Background(), r.host)
	require.NoError(r.t, err)
	return st
}

func (r *rig) settled() {
	r.t.Helper()
	require.Eventually(r.t, func() bool { return r.status().Streams == 0 }, patience, 10*time.Millisecond)
}

func (r *rig) waitStatus(f func(Status) bool) {
	r.t.Helper()
	require.Eventually(r.t, func() bool {
		st, err := GetStatus(context.Background(), r.host)
		return err == nil && f(st)
	}, patience, 10*time.Millisecond)
}

// exits waits for the device's own end.
func (r *rig) exits() error {
	r.t.Helper()
	done := make(chan error, 1)
	go func() { done <- r.dev.Wait() }()
	select {
	case err := <-done:
		return err
	case <-time.After(patience):
		_ = r.dev.Process.Signal(syscall.SIGQUIT)
		<-done
		r.t.Fatalf("the device does not end:\n%s", r.log)
		return nil
	}
}

// rss returns the resident memory of the device in KiB, now and at most.
func (r *rig) rss() (now, most int) {
	r.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", r.dev.Process.Pid))
	require.NoError(r.t, err)
	for l := range strings.Lines(string(b)) {
		f := strings.Fields(l)
		if len(f) < 2 {
			continue
		}
		switch f[0] {
		case "VmRSS:":
			now, _ = strconv.Atoi(f[1])
		case "VmHWM:":
			most, _ = strconv.Atoi(f[1])
		}
	}
	require.Positive(r.t, now)
	return now, most
}
