package disk

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/hypervisor"
)

// TestSwap saves two disks, puts them back in other places, and takes that back.
func TestSwap(t *testing.T) {
	ctx := t.Context()
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	write := func(name, text string, mode os.FileMode) {
		require.NoError(t, os.WriteFile(at(name), []byte(text), mode))
	}
	read := func(name string) string {
		b, err := os.ReadFile(at(name))
		require.NoError(t, err)
		return string(b)
	}
	names := func() (list []string) {
		entries, err := os.ReadDir(dir)
		require.NoError(t, err)
		for _, e := range entries {
			list = append(list, e.Name())
		}
		return list
	}
	require.NoError(t, os.Mkdir(at("snap"), 0o700))
	write("a", "saved a", 0o600)
	write("b", "saved b", 0o600)
	write("ro", "read only", 0o400)
	var saved []Saved
	for _, name := range []string{"a", "b"} {
		s, err := Save(ctx, at(name), at("snap"), name)
		require.NoError(t, err)
		saved = append(saved, s)
	}
	mark, err := Mark(hypervisor.DiskConfig{Path: at("ro"), Readonly: true})
	require.NoError(t, err)
	saved = append(saved, mark)

	// The first disk is reached by a link now, and the second is gone.
	require.NoError(t, os.Rename(at("a"), at("moved")))
	write("moved", "later", 0o600)
	require.NoError(t, os.Chmod(at("moved"), 0o640))
	require.NoError(t, os.Symlink("moved", at("link")))
	require.NoError(t, os.Remove(at("b")))
	images := []string{at("link"), at("elsewhere"), at("ro")}
	for i := range saved {
		require.NoError(t, saved[i].Check(ctx, at("snap"), images[i]))
	}
	before := names()

	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	_, err = Put(cancelled, at("journal"), at("snap"), images, saved)
	require.ErrorIs(t, err, context.Canceled)
	assert.Equal(t, before, names())
	require.ErrorIs(t, saved[0].Check(cancelled, at("snap"), images[0]), context.Canceled)

	s, err := Put(ctx, at("journal"), at("snap"), images, saved)
	require.NoError(t, err)
	assert.Equal(t, "saved a", read("moved"))
	assert.Equal(t, "saved b", read("elsewhere"))
	fi, err := os.Lstat(at("link"))
	require.NoError(t, err)
	assert.Equal(t, os.ModeSymlink, fi.Mode().Type(), "the link stays one")
	fi, err = os.Stat(at("moved"))
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o640), fi.Mode().Perm())
	assert.FileExists(t, at("journal"))

	require.NoError(t, s.TakeBack())
	assert.Equal(t, "later", read("moved"))
	assert.Equal(t, before, names())

	// Another process takes back what it finds written down, or gives it up.
	_, err = Put(ctx, at("journal"), at("snap"), images, saved)
	require.NoError(t, err)
	require.NoError(t, TakeBack(at("journal")))
	assert.Equal(t, "later", read("moved"))
	require.NoError(t, TakeBack(at("journal")), "there is nothing to take back")
	_, err = Put(ctx, at("journal"), at("snap"), images, saved)
	require.NoError(t, err)
	s, err = Pending(at("journal"))
	require.NoError(t, err)
	s.Settle(slog.Default())
	assert.Equal(t, "saved a", read("moved"))
	assert.Equal(t, "saved b", read("elsewhere"))
	assert.NoFileExists(t, at("journal"))
	assert.Len(t, names(), len(before)+1)
}

func TestDamaged(t *testing.T) {
	ctx := t.Context()
	dir := t.TempDir()
	path := filepath.Join(dir, "disk")
	require.NoError(t, os.WriteFile(path, []byte("content"), 0o600))
	f, err := Sum(ctx, dir, "disk")
	require.NoError(t, err)
	require.NoError(t, f.Check(ctx, dir))
	for _, c := range []struct{ content, says string }{{"Content", "checksum"}, {"conten", "bytes"}} {
		require.NoError(t, os.WriteFile(path, []byte(c.content), 0o600))
		err := f.Check(ctx, dir)
		require.ErrorIs(t, err, hypervisor.ErrInvalid)
		assert.ErrorContains(t, err, c.says)
	}
	for _, name := range []string{"", "..", "../disk", "/etc/passwd", ".hidden"} {
		f.Name = name
		require.ErrorIs(t, f.Check(ctx, dir), hypervisor.ErrInvalid, name)
	}
	ro := hypervisor.DiskConfig{Path: path, Readonly: true}
	mark, err := Mark(ro)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, []byte("more content"), 0o600))
	require.ErrorIs(t, mark.Check(ctx, dir, path), hypervisor.ErrInvalid)
	_, err = Mark(hypervisor.DiskConfig{Path: "/dev/null"})
	require.ErrorIs(t, err, hypervisor.ErrNotSupported)
}
