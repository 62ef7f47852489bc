package fs

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hugelgupf/p9/p9"
	"github.com/stretchr/testify/require"

	"vmfs/backends/hypervisor"
	"vmfs/backends/sim"
	"vmfs/machine"
	"vmfs/ninep"
)

func TestMain(m *testing.M) {
	sim.New(sim.Config{}).Register()
	os.Exit(m.Run())
}

// newHost opens a Host in a directory of its own, with simulated VMs by default.
func newHost(t testing.TB) *machine.Host {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "vmfs")
	require.NoError(t, err)
	host, err := machine.Open(context.Background(), machine.Options{StateDir: dir, DefaultBackend: hypervisor.TypeSim, Reserved: RootNames()})
	require.NoError(t, err)
	t.Cleanup(func() {
		for _, vm := range host.VMs() {
			if st := vm.State(); st == hypervisor.StateRunning || st == hypervisor.StatePaused {
				require.NoError(t, vm.Kill(context.Background()))
			}
		}
		require.NoError(t, host.Close())
		require.NoError(t, os.RemoveAll(dir))
	})
	return host
}

// client serves the tree on a Unix socket and returns the root as a p9 client
// sees it.
func client(t testing.TB, tree *Tree) p9.File {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "vmfs")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	ln, err := net.Listen("unix", filepath.Join(dir, "s"))
	require.NoError(t, err)
	srv := &ninep.Server{Attacher: tree}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(context.Background(), ln) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		require.NoError(t, srv.Shutdown(ctx))
		require.NoError(t, <-done)
	})
	conn, err := net.Dial("unix", ln.Addr().String())
	require.NoError(t, err)
	c, err := p9.NewClient(conn)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	root, err := c.Attach("")
	require.NoError(t, err)
	return root
}

// open walks to a path and opens it.
func open(t testing.TB, root p9.File, path string, mode p9.OpenFlags) (p9.File, error) {
	t.Helper()
	_, f, err := root.Walk(strings.Split(path, "/"))
	if err != nil {
		return nil, err
	}
	if _, _, err := f.Open(mode); err != nil {
		f.Close()
		return nil, err
	}
	t.Cleanup(func() { f.Close() })
	return f, nil
}

func mustOpen(t testing.TB, root p9.File, path string, mode p9.OpenFlags) p9.File {
	t.Helper()
	f, err := open(t, root, path, mode)
	require.NoError(t, err, path)
	return f
}

// cat reads a file to its end.
func cat(t testing.TB, root p9.File, path string) string {
	t.Helper()
	f := mustOpen(t, root, path, p9.ReadOnly)
	var text []byte
	buf := make([]byte, 100)
	for {
		n, err := f.ReadAt(buf, int64(len(text)))
		text = append(text, buf[:n]...)
		if n == 0 {
			require.True(t, err == nil || err.Error() == "EOF", "%s: %v", path, err)
			return string(text)
		}
	}
}

// write writes a line to a file, as echo does.
func write(t testing.TB, root p9.File, path, text string) error {
	t.Helper()
	f, err := open(t, root, path, p9.WriteOnly)
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte(text+"\n"), 0)
	return err
}

func mustWrite(t testing.TB, root p9.File, path, text string) {
	t.Helper()
	require.NoError(t, write(t, root, path, text), "%s: %s", path, text)
}

func mkdir(t testing.TB, root p9.File, name string) error {
	t.Helper()
	_, err := root.Mkdir(name, 0o700, p9.NoUID, p9.NoGID)
	return err
}

var _ ninep.Privileger = (*Tree)(nil)
