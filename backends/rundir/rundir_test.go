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
	Record
	Said string `json:"said"`
}

// testDir is a run-time directory that is there.
func testDir(t *testing.T, k *Kind) Dir {
	t.Helper()
	d, err := k.Of(filepath.Join(t.TempDir(), "x.sock"))
	require.NoError(t, err)
	return d
}

// TestKept changes a record by several goroutines at once.
func TestKept(t *testing.T) {
	d := testDir(t, &Kind{Record: "r.json", Oldest: 1, Newest: 2})
	k := Keep(d, &testRecord{Said: "kept"})
	for range 20 {
		var changes sync.WaitGroup
		for range 8 {
			changes.Go(func() { assert.NoError(t, k.Change(func(r *Record) { r.Version += "x" })) })
		}
		changes.Wait()
		r, err := Read[testRecord](d)
		require.NoError(t, err)
		require.Equal(t, k.Get(), r)
		require.Equal(t, "kept", r.Said)
	}
	assert.Equal(t, strings.Repeat("x", 160), k.Common().Version)
	none := Keep[testRecord](d, nil)
	require.NoError(t, none.Change(func(*Record) { panic("nothing to change") }))
	assert.Nil(t, none.Get())
	assert.Nil(t, none.Common())
}

func TestRead(t *testing.T) {
	d := testDir(t, &Kind{Record: "r.json", Oldest: 1, Newest: 2})
	_, err := Read[testRecord](d)
	require.ErrorIs(t, err, fs.ErrNotExist)
	for said, text := range map[string]string{"the format is 3": `{"format":3}`, "the format is 0": `{}`, "cannot unmarshal": `{"format":2,"said":1}`, "JSON": `{"form`} {
		require.NoError(t, os.WriteFile(d.Record(), []byte(text), 0o600))
		r, err := Read[testRecord](d)
		require.ErrorContains(t, err, said)
		assert.ErrorContains(t, err, d.Record())
		assert.Nil(t, r)
	}
	require.NoError(t, os.WriteFile(d.Record(), []byte(`{"format":1,"said":"yes","ran":true}`), 0o600))
	r, err := Read[testRecord](d)
	require.NoError(t, err)
	assert.Equal(t, &testRecord{Record: Record{Format: 1, Ran: true}, Said: "yes"}, r)
	require.NoError(t, Write(d, r))
	again, err := Read[testRecord](d)
	require.NoError(t, err)
	assert.Equal(t, 2, again.Format, "the newest is written")
}

func TestPrepare(t *testing.T) {
	top, err := os.MkdirTemp("/tmp", "vmfs") // short enough for sockets
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(top) })
	k := &Kind{Record: "record", Log: "log", Files: []string{"left"}}
	d, err := k.Of(filepath.Join(top, "web", "run", "x.sock"))
	require.NoError(t, err)
	assert.Equal(t, "run", d.VM())
	require.NoError(t, d.Prepare())
	for _, path := range []string{d.Path("left"), d.Record(), d.Log(), d.Swap()} {
		require.NoError(t, os.WriteFile(path, nil, 0o600))
	}
	require.NoError(t, d.Prepare())
	assert.NoFileExists(t, d.Path("left"))
	assert.NoFileExists(t, d.Record())
	assert.FileExists(t, d.Log())
	assert.FileExists(t, d.Swap(), "a restore that was cut short is taken back by it")

	long, err := (&Kind{Sockets: []string{strings.Repeat("s", 200)}}).Of(d.Control())
	require.NoError(t, err)
	require.ErrorIs(t, long.Prepare(), hypervisor.ErrInvalid)
	served, err := unixsock.Listen(t.Context(), d.Control())
	require.NoError(t, err)
	defer served.Close()
	require.ErrorIs(t, d.Prepare(), hypervisor.ErrBusy)
	assert.FileExists(t, d.Control(), "whose it is is not touched")
	_, err = k.Of("")
	require.ErrorIs(t, err, hypervisor.ErrInvalid)
}
