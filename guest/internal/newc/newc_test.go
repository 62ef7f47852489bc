package newc

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

type parsed struct {
	Header
	ino, nlink uint32
	content    string
}

// parse reads an archive back, strictly.
func parse(t *testing.T, b []byte) []parsed {
	t.Helper()
	var out []parsed
	for off := 0; ; {
		require.Equal(t, 0, off%4, "alignment")
		require.Equal(t, magic, string(b[off:off+6]))
		var f [13]uint32
		for i := range f {
			v, err := strconv.ParseUint(string(b[off+6+8*i:off+14+8*i]), 16, 32)
			require.NoError(t, err)
			f[i] = uint32(v)
		}
		name := string(b[off+110 : off+110+int(f[11])])
		require.True(t, strings.HasSuffix(name, "\x00"))
		assert.Zero(t, f[2]|f[3]|f[5]|f[12], "owner, group, time, check")
		data := (off + 110 + len(name) + 3) &^ 3
		p := parsed{Header{Name: name[:len(name)-1], Mode: f[1], Size: int64(f[6]), Major: f[9], Minor: f[10]}, f[0], f[4], string(b[data : data+int(f[6])])}
		off = (data + int(f[6]) + 3) &^ 3
		if p.Name == trailer {
			assert.Equal(t, len(b), off, "nothing behind the trailer")
			return out
		}
		out = append(out, p)
	}
}

func write(t *testing.T) []byte {
	var b bytes.Buffer
	w := NewWriter(&b)
	require.NoError(t, w.Add(Header{Name: "dev", Mode: TypeDir | 0o755}, nil))
	require.NoError(t, w.Add(Header{Name: "dev/console", Mode: TypeChar | 0o600, Major: 5, Minor: 1}, nil))
	require.NoError(t, w.Add(Header{Name: "sh", Mode: TypeSymlink | 0o777, Size: 7}, strings.NewReader("busybox")))
	for n := range 5 {
		content := strings.Repeat("x", n)
		require.NoError(t, w.Add(Header{Name: fmt.Sprintf("f%d", n), Mode: TypeRegular | 0o644, Size: int64(n)}, strings.NewReader(content)))
	}
	require.NoError(t, w.Close())
	require.NoError(t, w.Close(), "a second Close does nothing")
	return b.Bytes()
}

func TestRoundTrip(t *testing.T) {
	b := write(t)
	assert.Equal(t, b, write(t), "the same twice")
	got := parse(t, b)
	require.Len(t, got, 8)
	assert.Equal(t, Header{Name: "dev", Mode: 0o40755}, got[0].Header)
	assert.Equal(t, uint32(2), got[0].nlink)
	assert.Equal(t, Header{Name: "dev/console", Mode: 0o20600, Major: 5, Minor: 1}, got[1].Header)
	assert.Equal(t, "busybox", got[2].content)
	assert.Equal(t, "xxxx", got[7].content)
	seen := map[uint32]bool{}
	for _, p := range got {
		assert.False(t, seen[p.ino], "two entries of one inode would be hard links")
		seen[p.ino] = true
	}
}

// The cpio program is an independent reader.
func TestAgainstCpio(t *testing.T) {
	cpio, err := exec.LookPath("cpio")
	if err != nil {
		t.Skip("cpio is not installed: apt-get install cpio; TestRoundTrip checks the same with a reader of its own")
	}
	cmd := exec.Command(cpio, "-t", "--quiet")
	cmd.Stdin = bytes.NewReader(write(t))
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	assert.Equal(t, "dev\ndev/console\nsh\nf0\nf1\nf2\nf3\nf4\n", string(out))
}

func TestRefused(t *testing.T) {
	w := NewWriter(io.Discard)
	for _, h := range []Header{
		{Name: "", Mode: TypeRegular},
		{Name: trailer, Mode: TypeRegular},
		{Name: "a\x00b", Mode: TypeRegular},
		{Name: "a", Mode: 0o644},
		{Name: "a", Mode: TypeRegular, Size: 1 << 32},
		{Name: "a", Mode: TypeRegular, Size: -1},
	} {
		assert.Error(t, w.Add(h, strings.NewReader("x")), "%+v", h)
	}
	assert.ErrorIs(t, w.Add(Header{Name: "a", Mode: TypeRegular, Size: 2}, strings.NewReader("x")), io.ErrUnexpectedEOF)
	require.NoError(t, w.Close())
	assert.Error(t, w.Add(Header{Name: "a", Mode: TypeDir}, nil), "after Close")

	full := errors.New("disk full")
	assert.ErrorIs(t, NewWriter(failing{full}).Add(Header{Name: "a", Mode: TypeDir}, nil), full)
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }
