package disk

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/hypervisor"
)

// attacker is a user who can write a directory: it gives every file that comes into being
// there under one of the names to a victim, until the test's end or stop.
func attacker(t *testing.T, dir, victim string, names ...string) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	bait := filepath.Join(t.TempDir(), "bait")
	for i, name := range names {
		bait, path := bait+string(rune('a'+i)), filepath.Join(dir, name)
		wg.Go(func() {
			for ctx.Err() == nil {
				if fi, err := os.Lstat(path); err == nil && fi.Mode().IsRegular() {
					if os.Symlink(victim, bait) == nil {
						_ = os.Rename(bait, path) // it may have moved just now
					}
				}
				runtime.Gosched()
			}
		})
	}
	stop = func() { cancel(); wg.Wait() }
	t.Cleanup(stop)
	return stop
}

// TestHostileDirectory restores a disk, and makes one, in a directory that somebody else can
// write: whatever that one does there, a file elsewhere keeps its owner, mode and content.
func TestHostileDirectory(t *testing.T) {
	dir, elsewhere := t.TempDir(), t.TempDir()
	victim := filepath.Join(elsewhere, "victim")
	require.NoError(t, os.WriteFile(victim, []byte("the victim's"), 0o600))
	before, err := os.Stat(victim)
	require.NoError(t, err)

	image, snap := filepath.Join(dir, "disk"), filepath.Join(elsewhere, "snap")
	require.NoError(t, os.Mkdir(snap, 0o700))
	f, err := os.Create(image)
	require.NoError(t, err)
	for off := int64(0); off < 8<<20; off += blockSize { // what takes its time to be copied
		_, err := f.WriteAt([]byte("x"), off)
		require.NoError(t, err)
	}
	require.NoError(t, f.Close())
	require.NoError(t, os.Chmod(image, 0o666))
	if os.Geteuid() == 0 {
		require.NoError(t, os.Chown(image, 1234, 1234))
	}
	saved, err := Save(t.Context(), image, snap, "disk0")
	require.NoError(t, err)

	attacker(t, dir, victim, ".disk.restored0", ".disk.before0", ".new.new0", ".raw.new0")
	journal := filepath.Join(elsewhere, "journal")
	for range 20 {
		s, err := Put(t.Context(), journal, snap, []string{image}, []Saved{saved})
		if err == nil {
			require.NoError(t, s.TakeBack())
		}
		_, _ = os.Stat(image)
		if fi, err := os.Lstat(image); err != nil || !fi.Mode().IsRegular() {
			break // it is the attacker's own disk that is gone
		}
	}
	for _, d := range []hypervisor.DiskConfig{{Path: filepath.Join(dir, "raw"), Size: mib}, {Path: filepath.Join(dir, "new"), Size: mib, Format: hypervisor.DiskQCOW2}} {
		_ = Fit(t.Context(), []hypervisor.DiskConfig{d}) // it may succeed, if the attacker was slow
	}

	after, err := os.Lstat(victim)
	require.NoError(t, err)
	assert.Equal(t, before.Mode(), after.Mode())
	assert.Equal(t, before.Sys(), after.Sys(), "owner, size, times and links")
	b, err := os.ReadFile(victim)
	require.NoError(t, err)
	assert.Equal(t, "the victim's", string(b))
}
