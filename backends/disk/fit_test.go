package disk

import (
	"context"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/hypervisor"
)

const mib = 1 << 20

// needQEMUImg skips a test where qemu-img is not installed.
func needQEMUImg(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("qemu-img"); err != nil {
		t.Skip("qemu-img is missing: apt-get install qemu-utils")
	}
}

func bases(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// TestFit makes and grows images of both formats, and does not shrink them.
func TestFit(t *testing.T) {
	for _, format := range []hypervisor.DiskFormat{"", hypervisor.DiskRaw, hypervisor.DiskQCOW2} {
		t.Run("format "+string(format), func(t *testing.T) {
			if format == hypervisor.DiskQCOW2 {
				needQEMUImg(t)
			}
			dir := t.TempDir()
			d := hypervisor.DiskConfig{Path: filepath.Join(dir, "im,age:1"), Format: format}
			fit := func(bytes int64) error {
				d.Size = bytes
				return Fit(t.Context(), []hypervisor.DiskConfig{d})
			}
			size := func() int64 {
				n, err := Size(d.Path, d.Format)
				require.NoError(t, err)
				return n
			}
			require.NoError(t, fit(0), "a disk without a size is not looked at")
			assert.NoFileExists(t, d.Path)
			require.NoError(t, os.WriteFile(filepath.Join(dir, ".im,age:1.new0"), []byte("of a killed server"), 0o600))
			require.NoError(t, fit(64*mib))
			assert.EqualValues(t, 64*mib, size())
			assert.Equal(t, []string{"im,age:1"}, bases(t, dir), "nothing is left beside it")
			fi, err := os.Stat(d.Path)
			require.NoError(t, err)
			assert.Equal(t, fs.FileMode(0o600), fi.Mode())
			assert.Less(t, allocated(t, d.Path), int64(mib), "it uses no room")

			mark(t, d)
			require.NoError(t, fit(64*mib))
			require.NoError(t, fit(200*1024*mib), "to where a qcow2 needs a longer table")
			assert.EqualValues(t, 200*1024*mib, size())
			err = fit(64 * mib)
			require.ErrorIs(t, err, hypervisor.ErrInvalid)
			assert.ErrorContains(t, err, d.Path)
			assert.ErrorContains(t, err, "never shrinks, so write size:214748364800 or leave size out")
			assert.EqualValues(t, 200*1024*mib, size())
			assert.Equal(t, marked, readMark(t, d), "what it had")
			assert.Less(t, allocated(t, d.Path), int64(4*mib))
			if format == hypervisor.DiskQCOW2 {
				out, err := exec.Command("qemu-img", "check", "-f", "qcow2", d.Path).CombinedOutput()
				assert.NoError(t, err, "%s", out)
			}
		})
	}
}

// allocated returns the bytes that a file uses.
func allocated(t *testing.T, path string) int64 {
	t.Helper()
	var st syscall.Stat_t
	require.NoError(t, syscall.Stat(path, &st))
	return st.Blocks * 512
}

const marked = "what the disk begins with"

// mark writes into a disk, and readMark reads it.
func mark(t *testing.T, d hypervisor.DiskConfig) {
	t.Helper()
	if d.Format != hypervisor.DiskQCOW2 {
		f, err := os.OpenFile(d.Path, os.O_WRONLY, 0)
		require.NoError(t, err)
		_, err = f.WriteAt([]byte(marked), 0)
		require.NoError(t, err)
		require.NoError(t, f.Close())
		return
	}
	raw := filepath.Join(t.TempDir(), "raw")
	require.NoError(t, os.WriteFile(raw, []byte(marked), 0o600))
	require.NoError(t, os.Truncate(raw, 64*mib))
	out, err := exec.Command("qemu-img", "convert", "-n", "-f", "raw", "-O", "qcow2", raw, "file:"+d.Path).CombinedOutput()
	require.NoError(t, err, "%s", out)
}

func readMark(t *testing.T, d hypervisor.DiskConfig) string {
	t.Helper()
	path := d.Path
	if d.Format == hypervisor.DiskQCOW2 {
		path = filepath.Join(t.TempDir(), "raw")
		out, err := exec.Command("qemu-img", "dd", "-f", "qcow2", "-O", "raw", "bs=512", "count=1", "if="+d.Path, "of="+path).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	b := make([]byte, len(marked))
	_, err = f.ReadAt(b, 0)
	require.NoError(t, err)
	return string(b)
}

// TestFitRefuses holds what cannot be done, and that it changes nothing.
func TestFitRefuses(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	require.NoError(t, os.WriteFile(at("raw"), make([]byte, 4096), 0o600))
	require.NoError(t, os.Symlink("nowhere", at("dangling")))
	require.NoError(t, os.Mkdir(at("dir"), 0o700))
	before := bases(t, dir)
	for _, c := range []struct {
		disk hypervisor.DiskConfig
		is   error
		says string
	}{
		{hypervisor.DiskConfig{Path: at("raw"), Format: hypervisor.DiskQCOW2}, hypervisor.ErrInvalid, "it is no qcow2 image"},
		{hypervisor.DiskConfig{Path: at("raw"), Readonly: true}, hypervisor.ErrInvalid, "readonly"},
		{hypervisor.DiskConfig{Path: at("dangling")}, fs.ErrNotExist, "a link to what is not there"},
		{hypervisor.DiskConfig{Path: at("dir")}, hypervisor.ErrInvalid, "neither a file nor a block device"},
		{hypervisor.DiskConfig{Path: "/dev/null"}, hypervisor.ErrInvalid, "neither a file nor a block device"},
		{hypervisor.DiskConfig{Path: at("missing/raw")}, fs.ErrNotExist, "missing"},
	} {
		c.disk.Size = mib
		err := Fit(t.Context(), []hypervisor.DiskConfig{c.disk})
		require.ErrorIs(t, err, c.is, c.says)
		assert.ErrorContains(t, err, c.says)
		assert.ErrorContains(t, err, c.disk.Path)
	}
	assert.Equal(t, before, bases(t, dir))
	fi, err := os.Stat(at("raw"))
	require.NoError(t, err)
	assert.EqualValues(t, 4096, fi.Size())
}

// TestNoQEMUImg says what is missing for a qcow2, and where to get it.
func TestNoQEMUImg(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	dir := t.TempDir()
	err := Fit(t.Context(), []hypervisor.DiskConfig{{Path: filepath.Join(dir, "x"), Format: hypervisor.DiskQCOW2, Size: mib}})
	require.ErrorIs(t, err, hypervisor.ErrNotSupported)
	assert.ErrorContains(t, err, "qemu-utils")
	assert.Empty(t, bases(t, dir))
	require.NoError(t, Fit(t.Context(), []hypervisor.DiskConfig{{Path: filepath.Join(dir, "x"), Size: mib}}), "a raw image needs no program")
}

// TestFitCancelled leaves nothing of an image that was not finished.
func TestFitCancelled(t *testing.T) {
	needQEMUImg(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	dir := t.TempDir()
	err := Fit(ctx, []hypervisor.DiskConfig{{Path: filepath.Join(dir, "x"), Format: hypervisor.DiskQCOW2, Size: mib}})
	require.ErrorIs(t, err, context.Canceled)
	assert.Empty(t, bases(t, dir))
}

// TestBlockingFIFO does not wait for somebody at the other end of a pipe.
func TestBlockingFIFO(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pipe")
	require.NoError(t, syscall.Mkfifo(path, 0o600))
	_, err := Size(path, hypervisor.DiskRaw)
	assert.ErrorIs(t, err, hypervisor.ErrInvalid)
}
