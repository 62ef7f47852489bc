package fs

import (
	"net"
	"path/filepath"
	"testing"

	fstest "github.com/hugelgupf/p9/fsimpl/test"
	"github.com/hugelgupf/p9/p9"
	"github.com/stretchr/testify/require"

	"vmfs/machine"
)

// attached gives a suite the root that a client has.
type attached struct{ root p9.File }

func (a attached) Attach() (p9.File, error) {
	_, f, err := a.root.Walk(nil)
	return f, err
}

// TestP9Suite runs p9's own suite for read-only trees on the tree itself, and on
// what a client sees of it through p9's server and through ours.
func TestP9Suite(t *testing.T) {
	host := newHost(t)
	_, err := host.Create("web", machine.Owner{Mode: 0o700})
	require.NoError(t, err)
	tree := New(host, Options{})
	var rootNames, vmNames []string
	for _, f := range RootFiles() {
		rootNames = append(rootNames, f.Name)
	}
	for _, f := range VMFiles() {
		vmNames = append(vmNames, f.Name)
	}
	suite := func(t *testing.T, a p9.Attacher) {
		fstest.TestReadOnlyFS(t, a,
			fstest.WithDir("", append(rootNames, "web")...),
			fstest.WithDir("web", vmNames...),
			fstest.WithFile("web/state", "created\n", p9.Attr{Mode: p9.ModeRegular | 0o400}, p9.AttrMask{Mode: true, Size: true}),
		)
	}
	t.Run("tree", func(t *testing.T) { suite(t, tree) })
	t.Run("ninep", func(t *testing.T) { suite(t, attached{client(t, tree)}) })
	t.Run("p9.Server", func(t *testing.T) {
		ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
		require.NoError(t, err)
		done := make(chan struct{})
		go func() { defer close(done); _ = p9.NewServer(tree).Serve(ln) }() // ends with the listener
		t.Cleanup(func() { ln.Close(); <-done })
		conn, err := net.Dial("unix", ln.Addr().String())
		require.NoError(t, err)
		c, err := p9.NewClient(conn)
		require.NoError(t, err)
		t.Cleanup(func() { c.Close() })
		root, err := c.Attach("")
		require.NoError(t, err)
		suite(t, attached{root})
	})
}
