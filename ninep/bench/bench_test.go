package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hugelgupf/p9/fsimpl/localfs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/ninep"
	"vmfs/ninep/dial"
)

// TestLoad drives a server in this process with every operation, and reads the
// table that comes of it.
func TestLoad(t *testing.T) {
	dir, err := os.MkdirTemp("/tmp", "vmfs")
	require.NoError(t, err)
	defer os.RemoveAll(dir)
	for _, name := range []string{"state", "w0", "w1", "w2"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte("sixteen bytes..\n"), 0o644))
	}
	srv := &ninep.Server{Attacher: localfs.Attacher(dir)}
	addr := "unix!" + filepath.Join(dir, "s")
	ln, err := dial.Listen(t.Context(), addr)
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() { done <- srv.Serve(t.Context(), ln) }()
	s := &server{name: "here", addr: addr, peer: true}
	for _, op := range []string{"getattr", "read", "write"} {
		rows, err := compare(t.Context(), []*server{s}, load{op: op, conns: 2, depth: 3, length: 20 * time.Millisecond}, 2)
		require.NoError(t, err)
		require.Len(t, rows, 1)
		assert.Positive(t, rows[0].res.ops, op)
		assert.Positive(t, rows[0].res.p50, op)
		assert.GreaterOrEqual(t, rows[0].res.p99, rows[0].res.p50, op)
		var out bytes.Buffer
		table{load{op: op, conns: 2, depth: 3}, rows}.print(&out)
		assert.Contains(t, out.String(), "| here | ")
		assert.Contains(t, out.String(), "| 1.00 |")
	}
	_, err = measure(t.Context(), &server{name: "here", addr: addr, file: []string{"nothing"}}, load{op: "read", conns: 1, depth: 1})
	assert.ErrorContains(t, err, "errno 2")
	_, err = measure(t.Context(), s, load{op: "dance", conns: 1, depth: 1})
	assert.ErrorContains(t, err, `no operation "dance"`)
	require.NoError(t, srv.Shutdown(t.Context()))
	require.NoError(t, <-done)
}

func TestHistogram(t *testing.T) {
	var h histogram
	for i := range 1000 {
		h.note(time.Duration(i+1) * time.Microsecond)
	}
	assert.InEpsilon(t, 500*time.Microsecond, h.quantile(0.5), 0.05)
	assert.InEpsilon(t, 990*time.Microsecond, h.quantile(0.99), 0.05)
	assert.Zero(t, new(histogram).quantile(0.5))
	for _, d := range []time.Duration{0, 1, 31, 32, 33, time.Hour} {
		h.note(d)
	}
}

func TestTargets(t *testing.T) {
	var f targetFlags
	require.NoError(t, f.Set("vmfs=unix!/run/x,web/state,/"))
	assert.Equal(t, []string{"web", "state"}, f[0].file)
	assert.Equal(t, "/", f[0].aname)
	assert.Error(t, f.Set("nothing"))
	_, err := numbers("1,x")
	assert.Error(t, err)
}
