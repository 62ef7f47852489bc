package rundir

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/hypervisor"
	"vmfs/internal/unixsock"
)

type testRecord struct {
	Format int    `json:"format"`
	Said   string `json:"said"`
}

// TestKept changes a record by several goroutines at once.
func TestKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "r.json")
	k := Keep(&testRecord{Format: 2}, func(r testRecord) error { return Write(path, r) })
	for range 20 {
		var changes sync.WaitGroup
		for range 8 {
			changes.Go(func() { assert.NoError(t, k.Change(func(r *testRecord) { r.Said += "x" })) })
		}
		changes.Wait()
		var r testRecord
		require.NoError(t, Read(path, 1, 2, &r))
		require.Equal(t, *k.Get(), r)
	}
	none := Keep(nil, func(testRecord) error { panic("nothing to write") })
	require.NoError(t, none.Change(func(*testRecord) { panic("nothing to change") }))
	assert.Nil(t, none.Get())
}

func TestRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "r.json")
	var r testRecord
	require.ErrorIs(t, Read(path, 1, 2, &r), fs.ErrNotExist)
	for said, text := range map[string]string{"the format is 3": `{"format":3}`, "the format is 0": `{}`, "cannot unmarshal": `{"format":2,"said":1}`, "JSON": `{"form`} {
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		err := Read(path, 1, 2, &r)
		require.ErrorContains(t, err, said)
		assert.ErrorContains(t, err, path)
	}
}

func TestPrepare(t *testing.T) {
	top, err := os.MkdirTemp("/tmp", "vmfs") // short enough for sockets
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(top) })
	d, err := Of(filepath.Join(top, "web", "run", "x.sock"))
	require.NoError(t, err)
	assert.Equal(t, "run", d.VM())
	left := []string{d.Control(), d.Path("left")}
	require.NoError(t, d.Prepare(nil, left))
	require.NoError(t, os.WriteFile(d.Path("left"), nil, 0o600))
	require.NoError(t, os.WriteFile(d.Path("kept"), nil, 0o600))
	require.NoError(t, d.Prepare(nil, left))
	assert.NoFileExists(t, d.Path("left"))
	assert.FileExists(t, d.Path("kept"))

	err = d.Prepare([]string{d.Path(strings.Repeat("s", 200))}, left)
	require.ErrorIs(t, err, hypervisor.ErrInvalid)
	served, err := unixsock.Listen(t.Context(), d.Control())
	require.NoError(t, err)
	defer served.Close()
	require.ErrorIs(t, d.Prepare(nil, left), hypervisor.ErrBusy)
	assert.FileExists(t, d.Control(), "whose it is is not touched")
	_, err = Of("")
	require.ErrorIs(t, err, hypervisor.ErrInvalid)
}
