package disk

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/hypervisor"
)

// run runs qemu-img in a directory.
func run(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command("qemu-img", args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "qemu-img %q: %s", args, out)
	return string(out)
}

// undeclare makes an image one that says nothing of its backing file's format, as all did
// before there was -F.
func undeclare(t *testing.T, image string) {
	t.Helper()
	b, err := os.ReadFile(image)
	require.NoError(t, err)
	at := bytes.Index(b, binary.BigEndian.AppendUint32(nil, extensionFormat))
	require.Positive(t, at)
	copy(b[at:], "none") // an extension that nobody knows
	require.NoError(t, os.WriteFile(image, b, 0o600))
}

// content reads the beginning of the disk of a chain as QEMU does with its Options.
func content(t *testing.T, c Chain, n int) string {
	t.Helper()
	b, err := json.Marshal(c.Options())
	require.NoError(t, err)
	to := filepath.Join(t.TempDir(), "raw")
	run(t, "/", "convert", "-O", "raw", "json:"+string(b), to)
	got, err := os.ReadFile(to)
	require.NoError(t, err)
	return string(got[:min(n, len(got))])
}

// TestGuestWrittenHeader is the attack: a guest has written the header of a qcow2 into its
// raw disk, which names a file of the host, and that disk is the base of another.
func TestGuestWrittenHeader(t *testing.T) {
	needQEMUImg(t)
	dir := t.TempDir()
	secret := filepath.Join(dir, "secret")
	require.NoError(t, os.WriteFile(secret, []byte(strings.Repeat("the host's secret ", 4096)), 0o600))
	run(t, dir, "create", "-q", "-f", "qcow2", "-b", secret, "-F", "raw", "header")
	header, err := os.ReadFile(filepath.Join(dir, "header"))
	require.NoError(t, err)
	base := filepath.Join(dir, "its disk") // with a space: the command that mends it quotes
	require.NoError(t, os.WriteFile(base, append(header, make([]byte, mib)...), 0o600))
	top := filepath.Join(dir, "top")
	run(t, dir, "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", "top")
	undeclare(t, top)

	_, err = ChainOf(top, hypervisor.DiskQCOW2)
	require.ErrorIs(t, err, hypervisor.ErrInvalid)
	assert.ErrorContains(t, err, "qemu-img rebase -u -f qcow2 -F raw -b '"+base+"' "+top)
	d := hypervisor.DiskConfig{Path: top, Format: hypervisor.DiskQCOW2, Size: 64 * mib}
	require.ErrorIs(t, Fit(t.Context(), []hypervisor.DiskConfig{d}), hypervisor.ErrInvalid, "nor does qemu-img follow it")

	// The command that the error names is one that does it.
	_, words, _ := strings.Cut(err.Error(), "`")
	words, _, _ = strings.Cut(words, "`")
	out, err := exec.Command("sh", "-c", words).CombinedOutput()
	require.NoError(t, err, "%s: %s", words, out)
	chain, err := ChainOf(top, hypervisor.DiskQCOW2)
	require.NoError(t, err)
	assert.Equal(t, Chain{{Path: top, Format: "qcow2"}, {Path: base, Format: "raw"}}, chain)
	assert.Equal(t, string(header[:512]), content(t, chain, 512), "the guest's own bytes, and no file of the host")
	require.NoError(t, Fit(t.Context(), []hypervisor.DiskConfig{d}))
	size, err := Size(top, d.Format)
	require.NoError(t, err)
	assert.EqualValues(t, d.Size, size)

	// A disk that is raw stays so, whatever its guest writes into it.
	chain, err = ChainOf(base, hypervisor.DiskRaw)
	require.NoError(t, err)
	assert.Equal(t, string(header[:512]), content(t, chain, 512))
}

func TestChain(t *testing.T) {
	needQEMUImg(t)
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "sub"), 0o700))
	at := func(name string) string { return filepath.Join(dir, name) }
	require.NoError(t, os.WriteFile(at("base"), []byte(strings.Repeat("below", mib/5)), 0o600))
	run(t, dir, "create", "-q", "-f", "qcow2", "-b", "../base", "-F", "raw", "sub/middle")
	run(t, dir, "create", "-q", "-f", "qcow2", "-o", "compat=0.10", "-b", "file:sub/middle", "-F", "qcow2", "top")
	chain, err := ChainOf(at("top"), hypervisor.DiskQCOW2)
	require.NoError(t, err)
	assert.Equal(t, Chain{{Path: at("top"), Format: "qcow2"}, {Path: at("sub/middle"), Format: "qcow2"}, {Path: at("base"), Format: "raw"}}, chain)
	assert.Equal(t, "belowbelow", content(t, chain, 10))
	b, err := json.Marshal(chain[1:].Options())
	require.NoError(t, err)
	assert.JSONEq(t, `{"driver":"qcow2","file":{"driver":"file","filename":"`+at("sub/middle")+`"},
		"backing":{"driver":"raw","read-only":true,"file":{"driver":"file","filename":"`+at("base")+`"}}}`, string(b))
	run(t, dir, "create", "-q", "-f", "qcow2", "alone", "1M")
	chain, err = ChainOf(at("alone"), hypervisor.DiskQCOW2)
	require.NoError(t, err)
	b, err = json.Marshal(chain.Options())
	require.NoError(t, err)
	assert.JSONEq(t, `{"driver":"qcow2","file":{"driver":"file","filename":"`+at("alone")+`"},"backing":null}`, string(b))
}

// TestChainRefuses has headers that nobody should follow.
func TestChainRefuses(t *testing.T) {
	needQEMUImg(t)
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	require.NoError(t, syscall.Mkfifo(at("fifo"), 0o600))
	require.NoError(t, os.WriteFile(at("raw"), make([]byte, mib), 0o600))
	overlay := func(name, backing, format string) {
		run(t, dir, "create", "-q", "-f", "qcow2", "-u", "-b", backing, "-F", format, name, "1M")
	}
	overlay("loop", "raw", "raw")
	run(t, dir, "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", "loop", "loop")
	overlay("url", "nbd://example.org/x", "raw")
	overlay("json", `json:{"driver":"null-co"}`, "raw")
	overlay("waits", "fifo", "raw")
	overlay("missing", "nowhere", "raw")
	overlay("vmdk", "raw", "vmdk")
	overlay("liar", "raw", "qcow2")
	run(t, dir, "create", "-q", "-f", "qcow2", "-o", "data_file="+at("data"), "external", "1M")
	for name, says := range map[string]string{
		"loop": "more than 32 images", "url": "no path", "json": "no path", "waits": "neither a file nor a block device", "missing": "nowhere",
		"vmdk": "qemu-img convert", "liar": "no qcow2 image", "external": "qemu-img convert", "raw": "no qcow2 image", "fifo": "neither a file",
	} {
		_, err := ChainOf(at(name), hypervisor.DiskQCOW2)
		require.Error(t, err, name)
		assert.ErrorContains(t, err, says)
	}
}

// TestCommandQuotes: what an error tells a tired reader to run is what a shell understands.
func TestCommandQuotes(t *testing.T) {
	for path, want := range map[string]string{
		"/a/b-c_d.img:1": "x /a/b-c_d.img:1", "a b": "x 'a b'", "it's": `x 'it'\''s'`, "$(reboot)": "x '$(reboot)'", "a;b": "x 'a;b'", "[a]": "x '[a]'", "a`b": "x 'a`b'", "~": "x '~'",
	} {
		assert.Equal(t, want, command("x", path))
	}
}

// FuzzQCOW2 reads what it likes as the beginning of a qcow2: names stay within bounds, and
// nothing is taken from beyond the bytes that there are.
func FuzzQCOW2(f *testing.F) {
	header := func(change func(b []byte)) []byte {
		b := make([]byte, 512)
		binary.BigEndian.PutUint32(b, qcow2Magic)
		binary.BigEndian.PutUint32(b[4:], 3)
		binary.BigEndian.PutUint64(b[8:], 200)
		binary.BigEndian.PutUint32(b[16:], 4)
		binary.BigEndian.PutUint32(b[20:], 16)
		binary.BigEndian.PutUint64(b[24:], 1<<20)
		binary.BigEndian.PutUint32(b[100:], 104)
		binary.BigEndian.PutUint32(b[104:], extensionFormat)
		binary.BigEndian.PutUint32(b[108:], 3)
		copy(b[112:], "raw")
		copy(b[200:], "base")
		if change != nil {
			change(b)
		}
		return b
	}
	h, err := parseQCOW2(header(nil))
	require.NoError(f, err)
	require.Equal(f, &qcow2Header{size: 1 << 20, backing: "base", format: "raw"}, h)
	f.Add(header(nil))
	for _, change := range []func(b []byte){
		func(b []byte) { binary.BigEndian.PutUint64(b[8:], 1<<63) },
		func(b []byte) { binary.BigEndian.PutUint32(b[16:], 1<<31) },
		func(b []byte) { binary.BigEndian.PutUint32(b[100:], 1<<31) },
		func(b []byte) { binary.BigEndian.PutUint32(b[108:], 1<<31) },
		func(b []byte) { binary.BigEndian.PutUint32(b[20:], 63) },
		func(b []byte) { binary.BigEndian.PutUint64(b[24:], 1<<63) },
		func(b []byte) { binary.BigEndian.PutUint32(b[4:], 1) },
		func(b []byte) { copy(b[200:], "\x00\n") },
	} {
		_, err := parseQCOW2(header(change))
		require.ErrorIs(f, err, hypervisor.ErrInvalid)
		f.Add(header(change))
	}
	f.Add(header(nil)[:80])
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := parseQCOW2(b)
		if err != nil {
			require.ErrorIs(t, err, hypervisor.ErrInvalid)
			return
		}
		require.GreaterOrEqual(t, h.size, int64(0))
		require.LessOrEqual(t, len(h.backing), backingMost)
		require.True(t, strings.Contains(string(b), h.backing) && strings.Contains(string(b), h.format))
	})
}
