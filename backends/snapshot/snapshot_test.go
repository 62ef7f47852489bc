package snapshot

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/disk"
	"vmfs/backends/gate"
	"vmfs/backends/hypervisor"
	"vmfs/backends/stored"
)

// errStuck is of a VMM that does not do what it is told.
var errStuck = errors.New("stuck")

// machine is a VM that can stand still, and notes what is done to it.
type machine struct {
	gate gate.Gate
	wg   sync.WaitGroup

	mu    sync.Mutex // guards the fields below
	notes []string
	stuck string // what it does not do
}

func (m *machine) do(what string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.notes = append(m.notes, what)
	if m.stuck == what {
		return errStuck
	}
	return nil
}

func (m *machine) done() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.notes
}

func (m *machine) saver(t *testing.T) *Saver {
	return &Saver{
		Log: slog.New(slog.DiscardHandler), Gate: &m.gate, Life: t.Context(),
		Spawn: func(f func()) error { m.wg.Go(f); return nil },
		Stop:  func(context.Context) error { return m.do("stop") },
		Go:    func(ctx context.Context) error { return errors.Join(ctx.Err(), m.do("go")) },
		Hold: func(held bool) {
			_ = m.do(map[bool]string{true: "hold", false: "let go"}[held])
		},
	}
}

var kind = Kind{VMM: "VMM", File: "manifest.json", Formats: []string{"one", "two"}}

type sheet struct {
	Manifest
	Memory disk.File `json:"memory"`
}

// take takes a snapshot of a VM with a disk of its own and a read-only one. While it
// stands still, still is called.
func take(t *testing.T, ctx context.Context, m *machine, dir string, config hypervisor.VMConfig, still func(context.Context) error) error {
	tk := m.saver(t).Begin(dir)
	s := &sheet{}
	return tk.Run(ctx, func(ctx context.Context) (err error) {
		if s.Manifest, err = kind.Describe(stored.Config{VMConfig: config}, "1.2"); err != nil {
			return err
		}
		if err := tk.Expect("memory"); err != nil {
			return err
		}
		tk.Undo(func(context.Context) error { return m.do("put in") })
		if err := m.do("take out"); err != nil {
			return err
		}
		if err := tk.Still(ctx); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "memory"), []byte("all of it"), 0o600); err != nil {
			return err
		}
		if err := still(ctx); err != nil {
			return err
		}
		return tk.CopyDisks(ctx, &s.Manifest)
	}, func(ctx context.Context) (err error) {
		if s.Memory, err = tk.Sum(ctx, "memory"); err != nil {
			return err
		}
		return tk.Finish(kind, s)
	})
}

func nothing(context.Context) error { return nil }

// twoDisks are a disk that can be written and one that cannot.
func twoDisks(t *testing.T) hypervisor.VMConfig {
	t.Helper()
	dir := t.TempDir()
	c := hypervisor.VMConfig{Name: "web", MemoryBytes: hypervisor.MinMemory, Disks: []hypervisor.DiskConfig{
		{Path: filepath.Join(dir, "a")}, {Path: filepath.Join(dir, "b"), Readonly: true},
	}}
	for _, d := range c.Disks {
		require.NoError(t, os.WriteFile(d.Path, []byte("saved"), 0o600))
	}
	return c
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	list := []string{}
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

func TestSnapshotAndRestore(t *testing.T) {
	config := twoDisks(t)
	dir := filepath.Join(t.TempDir(), "new", "snap")
	m := &machine{}
	require.NoError(t, take(t, t.Context(), m, dir, config, func(ctx context.Context) error {
		assert.ErrorIs(t, m.gate.Pass(ctx), hypervisor.ErrBusy, "the rest has to wait")
		_, err := m.gate.Hold("another", false)
		assert.ErrorIs(t, err, hypervisor.ErrBusy)
		return nil
	}))
	require.NoError(t, m.gate.Pass(t.Context()))
	assert.Equal(t, []string{"take out", "hold", "stop", "go", "let go", "put in"}, m.done(), "the last step is undone first")
	assert.Equal(t, []string{"disk0", "manifest.json", "memory"}, names(t, dir))
	require.ErrorIs(t, take(t, t.Context(), m, dir, config, nothing), fs.ErrExist, "a snapshot is not written over another")
	assert.Equal(t, []string{"disk0", "manifest.json", "memory"}, names(t, dir))

	var s sheet
	require.NoError(t, kind.Read(dir, &s))
	assert.Equal(t, "two", s.Format)
	assert.Equal(t, "1.2", s.Version)
	assert.Equal(t, config, s.Config.VMConfig)
	require.NoError(t, s.Check(t.Context(), dir, config, s.Memory))

	over := config
	over.Name = "elsewhere"
	laid, err := s.ConfigFor(&over)
	require.NoError(t, err)
	assert.Equal(t, over, laid)
	laid, err = s.ConfigFor(nil)
	require.NoError(t, err)
	assert.Equal(t, config, laid)
	over.VCPUs = 4
	_, err = s.ConfigFor(&over)
	require.ErrorIs(t, err, hypervisor.ErrInvalid)

	// The disk has what was saved while the VM is started, and keeps it if it is.
	path, journal := config.Disks[0].Path, filepath.Join(t.TempDir(), "restore.json")
	read := func() string {
		b, err := os.ReadFile(path)
		require.NoError(t, err)
		return string(b)
	}
	require.NoError(t, os.WriteFile(path, []byte("later"), 0o600))
	restore := func(start error) error {
		return s.WithDisks(t.Context(), slog.New(slog.DiscardHandler), journal, dir, config, func() error {
			assert.Equal(t, "saved", read())
			return start
		})
	}
	require.ErrorIs(t, restore(errStuck), errStuck)
	assert.Equal(t, "later", read())
	require.NoError(t, restore(nil))
	assert.Equal(t, "saved", read())
	assert.NoFileExists(t, journal)
	assert.Equal(t, []string{"a", "b"}, names(t, filepath.Dir(path)))

	// A server that dies in one leaves that to be settled by the next, or taken back.
	require.NoError(t, os.WriteFile(path, []byte("later"), 0o600))
	put := func() {
		_, err := disk.Put(t.Context(), journal, dir, []string{path, config.Disks[1].Path}, s.Disks)
		require.NoError(t, err)
	}
	put()
	Settle(slog.New(slog.DiscardHandler), journal)
	assert.Equal(t, "saved", read())
	assert.Equal(t, []string{"a", "b"}, names(t, filepath.Dir(path)))
	require.NoError(t, os.WriteFile(path, []byte("later"), 0o600))
	put()
	require.ErrorIs(t, restore(errStuck), errStuck)
	assert.Equal(t, "later", read())
	Settle(slog.New(slog.DiscardHandler), journal)
	assert.Equal(t, "later", read(), "nothing is left to settle")

	// What is damaged is refused.
	for name, says := range map[string]string{"memory": "checksum", "disk0": "checksum"} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		b[0] ^= 1
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), b, 0o600))
		err = s.Check(t.Context(), dir, config, s.Memory)
		require.ErrorIs(t, err, hypervisor.ErrInvalid)
		assert.ErrorContains(t, err, says)
		assert.ErrorContains(t, err, name)
		b[0] ^= 1
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), b, 0o600))
	}
	require.NoError(t, os.Chtimes(config.Disks[1].Path, time.Time{}, time.Unix(1, 0)))
	require.ErrorContains(t, s.Check(t.Context(), dir, config, s.Memory), "not as it was at the snapshot")
}

// TestFailures has each step fail: the VM is put back, and nothing is left.
func TestFailures(t *testing.T) {
	for stuck, want := range map[string][]string{
		"take out": {"take out", "put in"},
		"stop":     {"take out", "hold", "stop", "go", "let go", "put in"},
		"still":    {"take out", "hold", "stop", "still", "go", "let go", "put in"},
		"go":       {"take out", "hold", "stop", "still", "go", "let go", "put in"},
		"put in":   {"take out", "hold", "stop", "still", "go", "let go", "put in"},
	} {
		t.Run(stuck, func(t *testing.T) {
			m, dir := &machine{stuck: stuck}, t.TempDir()
			err := take(t, t.Context(), m, dir, twoDisks(t), func(context.Context) error { return m.do("still") })
			require.ErrorIs(t, err, errStuck)
			assert.Equal(t, want, m.done())
			assert.Empty(t, names(t, dir))
			require.NoError(t, m.gate.Pass(t.Context()))
		})
	}
	t.Run("a disk that cannot be saved", func(t *testing.T) {
		m := &machine{}
		config := hypervisor.VMConfig{Disks: []hypervisor.DiskConfig{{Path: "/dev/null"}}}
		require.ErrorIs(t, take(t, t.Context(), m, t.TempDir(), config, nothing), hypervisor.ErrNotSupported)
		assert.Empty(t, m.done())
	})
	t.Run("a handle that is closed", func(t *testing.T) {
		m := &machine{}
		s := m.saver(t)
		s.Spawn = func(func()) error { return errStuck }
		require.ErrorIs(t, s.Begin(t.TempDir()).Run(t.Context(), nothing, nothing), errStuck)
		require.NoError(t, m.gate.Pass(t.Context()))
	})
}

// TestCallerHasGone cancels a snapshot whose VMM takes its time: the caller is let
// go, and the VM put back all the same.
func TestCallerHasGone(t *testing.T) {
	config, dir := twoDisks(t), t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		m := &machine{}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		err := take(t, ctx, m, dir, config, func(ctx context.Context) error {
			time.Sleep(time.Minute)
			return ctx.Err()
		})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Equal(t, time.Second+cancelGrace, time.Since(began))
		assert.Equal(t, []string{"take out", "hold", "stop"}, m.done())
		require.ErrorIs(t, m.gate.Pass(t.Context()), hypervisor.ErrBusy)
		m.wg.Wait()
		assert.Equal(t, []string{"take out", "hold", "stop", "go", "let go", "put in"}, m.done())
		require.NoError(t, m.gate.Pass(t.Context()))
	})
	assert.Empty(t, names(t, dir))
}

// TestRecover is of a VM that a server has left paused.
func TestRecover(t *testing.T) {
	m := &machine{}
	s := m.saver(t)
	s.Recover(func(context.Context) error { return m.do("settle") })
	assert.Equal(t, []string{"settle", "go", "let go"}, m.done())
	for _, stuck := range []string{"settle", "go"} {
		m = &machine{stuck: stuck}
		m.saver(t).Recover(func(context.Context) error { return m.do("settle") })
		assert.NotContains(t, m.done(), "let go", "the next server is to try it, too")
		require.NoError(t, m.gate.Pass(t.Context()))
	}
	m = &machine{}
	release, err := m.gate.Hold(Busy, false)
	require.NoError(t, err)
	m.saver(t).Recover(nothing)
	assert.Empty(t, m.done(), "a snapshot puts it back itself")
	release()
}

func TestManifests(t *testing.T) {
	dir := t.TempDir()
	var s sheet
	err := kind.Read(dir, &s)
	require.ErrorIs(t, err, fs.ErrNotExist)
	assert.ErrorContains(t, err, "not a complete snapshot of VMM")
	for text, says := range map[string]string{
		`{"format": "three"}`:                                  `the format is "three", and this version reads up to "two"`,
		`{"format": "one", "disks": [{}]}`:                     "it has 1 disks, and the configuration in it 0",
		`{"format": "one"`:                                     "unexpected end",
		`{"format": "one", "config": {"disks": [{}]}}`:         "it has 0 disks, and the configuration in it 1",
		`{"format": "one", "config": {"memoryBytes": "much"}}`: "memoryBytes",
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, kind.File), []byte(text), 0o600))
		err := kind.Read(dir, &sheet{})
		require.ErrorIs(t, err, hypervisor.ErrInvalid, text)
		assert.ErrorContains(t, err, says)
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, kind.File), []byte(`{"format": "one", "memory": {"file": "m"}}`), 0o600))
	require.NoError(t, kind.Read(dir, &s))
	assert.Equal(t, "m", s.Memory.Name)
}
