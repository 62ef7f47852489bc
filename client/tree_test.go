package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hugelgupf/p9/linux"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/hypervisor"
	"vmfs/backends/sim"
	"vmfs/client"
	vmtree "vmfs/fs"
	"vmfs/machine"
	"vmfs/ninep"
	"vmfs/ninep/dial"
)

func TestMain(m *testing.M) {
	sim.New(sim.Config{}).Register()
	os.Exit(m.Run())
}

// serve serves the tree of simulated VMs and returns its address.
func serve(dir string) (addr string, stop func(), err error) {
	host, err := machine.Open(context.Background(), machine.Options{StateDir: filepath.Join(dir, "state"), DefaultBackend: hypervisor.TypeSim, Reserved: vmtree.RootNames()})
	if err != nil {
		return "", nil, err
	}
	tree := vmtree.New(host, vmtree.Options{})
	ln, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		return "", nil, err
	}
	srv := &ninep.Server{Attacher: tree}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(context.Background(), ln) }()
	return "unix!" + ln.Addr().String(), func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		for _, vm := range host.VMs() {
			_ = vm.Kill(ctx) // those that run
		}
		err := errors.Join(srv.Shutdown(ctx), <-done)
		tree.Close(ctx)
		err = errors.Join(err, host.Close())
		if err != nil {
			log.Fatal(err)
		}
	}, nil
}

func dialTree(t *testing.T) *client.Client {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "vmfs")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	addr, stop, err := serve(dir)
	require.NoError(t, err)
	t.Cleanup(stop)
	c, err := client.Dial(t.Context(), addr)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// TestTree lives the life of a VM.
func TestTree(t *testing.T) {
	c, ctx := dialTree(t), t.Context()
	require.NoError(t, c.Mkdir(ctx, "web", 0o700))
	require.ErrorIs(t, c.Mkdir(ctx, "web", 0o700), fs.ErrExist)
	require.Error(t, c.Mkdir(ctx, "/", 0o700))
	require.NoError(t, c.WriteFile(ctx, "web/config", []byte("memory=256M\nhotplug=256M\nvsock.cid=3\n")))
	require.NoError(t, c.Command(ctx, "web", "start"))
	text, err := c.ReadFile(ctx, "/web/state")
	require.NoError(t, err)
	assert.Equal(t, "running\n", string(text))

	entries, err := c.ReadDir(ctx, "")
	require.NoError(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name)
		assert.Equal(t, e.Name == "web" || e.Name == "backends", e.IsDir(), e.Name)
	}
	assert.IsIncreasing(t, names)
	assert.Subset(t, names, []string{"clone", "ctl", "events", "web"})
	info, err := c.Stat(ctx, "web/ctl")
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), info.Attr.Mode.OSMode().Perm())
	_, err = c.Stat(ctx, "web/nosuch/and/more")
	require.ErrorIs(t, err, fs.ErrNotExist)

	// Errors have the VM's own words, and the number.
	err = c.Command(ctx, "web", "start")
	require.ErrorIs(t, err, linux.EBUSY)
	assert.Contains(t, err.Error(), "web is running")
	err = c.WriteFile(ctx, "web/memory", []byte("lots\n"))
	require.ErrorIs(t, err, linux.EINVAL)
	assert.Contains(t, err.Error(), "lots")
	err = c.Rmdir(ctx, "web")
	require.ErrorIs(t, err, linux.EBUSY)
	assert.Contains(t, err.Error(), "stop it first")
	require.NoError(t, c.Mkdir(ctx, "web/snapshots/one", 0o700))
	require.ErrorIs(t, c.Mkdir(ctx, "web/snapshots/one", 0o700), fs.ErrExist)
	require.NoError(t, c.Rmdir(ctx, "web/snapshots/one"))
	require.ErrorIs(t, c.Rmdir(ctx, "web/snapshots/one"), fs.ErrNotExist)
	_, err = c.Open(ctx, "web/vsock/4242", os.O_RDWR)
	require.ErrorIs(t, err, linux.ECONNREFUSED)
	assert.Contains(t, err.Error(), "port 4242")

	require.NoError(t, c.Command(ctx, "web", "kill"))
	_, err = c.Wait(ctx, "web", "shutdown")
	require.NoError(t, err)
	require.NoError(t, c.Rmdir(ctx, "web"))
	require.ErrorIs(t, c.Rmdir(ctx, "web"), fs.ErrNotExist)
}

// TestWaits: what waits ends with its context, and the connection goes on.
func TestWaits(t *testing.T) {
	c := dialTree(t)
	require.NoError(t, c.Mkdir(t.Context(), "web", 0o700))
	events, err := c.Open(t.Context(), "web/events", os.O_RDONLY)
	require.NoError(t, err)

	short, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	_, err = c.Wait(short, "web", "running")
	var late *client.WaitError
	require.ErrorAs(t, err, &late)
	assert.Equal(t, "created", late.State)
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	_, err = events.Read(short, make([]byte, 100))
	require.ErrorIs(t, err, context.DeadlineExceeded)

	done := make(chan string, 1)
	go func() {
		st, _ := c.Wait(t.Context(), "web")
		done <- st
	}()
	// A wait for what never comes, by a verb, and it is ended by its context.
	waits, cancelWait := context.WithCancel(t.Context())
	verb := make(chan error, 1)
	go func() { verb <- c.Command(waits, "web", "wait shutdown") }()
	require.NoError(t, c.Command(t.Context(), "web", "start"))
	buf := make([]byte, 4096)
	n, err := events.Read(t.Context(), buf)
	require.NoError(t, err)
	assert.Contains(t, string(buf[:n]), "web")
	cancelWait()
	require.ErrorIs(t, <-verb, context.Canceled)
	select {
	case st := <-done:
		assert.Equal(t, "running", st)
	case <-time.After(20 * time.Second):
		t.Fatal("the state came and the wait did not end")
	}
	require.NoError(t, events.Close())

	go func() {
		_, err := c.Wait(t.Context(), "web", "paused")
		verb <- err
	}()
	require.NoError(t, c.Command(t.Context(), "web", "kill"))
	_, err = c.Wait(t.Context(), "web", "shutdown")
	require.NoError(t, err)
	require.NoError(t, c.Rmdir(t.Context(), "web"))
	require.Error(t, <-verb)
}

// TestStream talks to the simulated guest's echo.
func TestStream(t *testing.T) {
	c, ctx := dialTree(t), t.Context()
	require.NoError(t, c.Mkdir(ctx, "web", 0o700))
	require.NoError(t, c.WriteFile(ctx, "web/config", []byte("vsock.cid=3\n")))
	require.NoError(t, c.Command(ctx, "web", "start"))
	_, err := c.Connect(ctx, "web", 4242)
	require.ErrorIs(t, err, linux.ECONNREFUSED)
	assert.Contains(t, err.Error(), "port 4242")
	s, err := c.Connect(ctx, "web", 7)
	require.NoError(t, err)
	fmt.Fprint(s, "echo")
	require.NoError(t, s.CloseWrite())
	buf := make([]byte, 100)
	n, err := s.Read(buf)
	require.NoError(t, err)
	assert.Equal(t, "echo", string(buf[:n]))
	require.NoError(t, s.Close())

	// Bytes that come one after the other, into a buffer that waits for all of them.
	s, err = c.Connect(ctx, "web", 7)
	require.NoError(t, err)
	got := make(chan error, 1)
	go func() {
		_, err := io.ReadFull(s, buf[:10])
		got <- err
	}()
	for range 10 {
		fmt.Fprint(s, "x")
		time.Sleep(5 * time.Millisecond)
	}
	require.NoError(t, <-got)
	require.NoError(t, s.CloseWrite())
	_, err = s.Read(buf)
	require.ErrorIs(t, err, io.EOF)
	require.NoError(t, s.Close())

	// A read that waits ends with the stream.
	s, err = c.Connect(ctx, "web", 7)
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() {
		_, err := s.Read(buf)
		done <- err
	}()
	time.Sleep(20 * time.Millisecond)
	s.Close()
	require.Error(t, <-done)

	short, cancel := context.WithTimeout(ctx, 30*time.Millisecond)
	defer cancel()
	_, err = c.Accept(short, "web", 9000)
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

func TestDial(t *testing.T) {
	_, err := client.Dial(t.Context(), "nowhere")
	require.ErrorIs(t, err, dial.ErrAddress)
	_, err = client.Dial(t.Context(), "unix!/nosuch/socket")
	var none *client.DialError
	require.ErrorAs(t, err, &none)
	assert.Equal(t, "connect to unix!/nosuch/socket: no such file or directory", err.Error())
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close() // it accepts, and says nothing
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = client.Dial(ctx, dial.String(ln.Addr()))
	require.ErrorIs(t, err, context.DeadlineExceeded)
	assert.Contains(t, err.Error(), "no answer in time")
}
