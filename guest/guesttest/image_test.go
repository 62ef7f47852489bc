package guesttest

import (
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/guest"
)

// Builders at the same time make each image once, and different inputs make
// different images.
func TestBuildConcurrently(t *testing.T) {
	cache := t.TempDir()
	t.Setenv("VMFS_GUEST_CACHE", cache)
	kernel := t.TempDir()
	mods := filepath.Join(kernel, "lib/modules/1.2.3")
	require.NoError(t, os.MkdirAll(filepath.Join(mods, "kernel"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(mods, "modules.builtin"), []byte("kernel/virtio_pci.ko\n"), 0o644))
	o := guest.Options{Vmlinuz: filepath.Join(kernel, "vmlinuz"), Modules: mods, Busybox: guest.NoBusybox}
	require.NoError(t, os.WriteFile(o.Vmlinuz, []byte("a kernel"), 0o644))
	with := o
	with.Files = []guest.File{Script("true\n")}

	var mu sync.Mutex // guards made
	made := map[string]int{}
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			opts := o
			if i%2 == 1 {
				opts = with
			}
			_, initrd := Build(t, opts)
			mu.Lock()
			made[initrd]++
			mu.Unlock()
		})
	}
	wg.Wait()
	assert.Len(t, made, 2)
	for initrd, n := range made {
		assert.Equal(t, 3, n)
		assert.FileExists(t, initrd)
		before, err := os.Stat(initrd)
		require.NoError(t, err)
		_, again := Build(t, map[bool]guest.Options{true: o, false: with}[initrd == first(Build(t, o))])
		after, err := os.Stat(again)
		require.NoError(t, err)
		assert.Equal(t, before.ModTime(), after.ModTime(), "taken from the cache")
	}

	// Another kernel at the same path is another image, and old ones go.
	old := time.Now().Add(-30 * 24 * time.Hour)
	for initrd := range made {
		require.NoError(t, os.Chtimes(filepath.Dir(initrd), old, old))
	}
	require.NoError(t, os.WriteFile(o.Vmlinuz, []byte("another kernel"), 0o644))
	_, initrd := Build(t, o)
	assert.NotContains(t, made, initrd)
	for initrd := range made {
		assert.NoDirExists(t, filepath.Dir(initrd))
	}
}

func first(_, initrd string) string { return initrd }
