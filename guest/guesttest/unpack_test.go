package guesttest

import (
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// bzImage makes one with the payload, as Linux's build does: the unpacked size is
// behind it.
func bzImage(payload []byte, size int) []byte {
	b := make([]byte, 3*512)
	b[0x1f1] = 1 // a sector of setup
	copy(b[0x202:], "HdrS")
	payload = binary.LittleEndian.AppendUint32(payload, uint32(size))
	binary.LittleEndian.PutUint32(b[0x248:], 512)
	binary.LittleEndian.PutUint32(b[0x24c:], uint32(len(payload)))
	return append(append(b, payload...), "and more"...)
}

func TestUnpackKernel(t *testing.T) {
	if _, err := exec.LookPath("xz"); err != nil {
		Missing(t, "xz is not installed: `apt-get install xz-utils`")
	}
	pack := func(text string) []byte {
		cmd := exec.Command("sh", "-c", "printf '"+text+"' | xz -c --check=crc32")
		out, err := cmd.Output()
		require.NoError(t, err)
		return out
	}
	for name, c := range map[string]struct {
		image []byte
		says  string
	}{
		"a kernel":     {image: bzImage(pack(`\177ELF and the rest`), 16)},
		"no kernel":    {image: []byte("text"), says: "not a bzImage"},
		"cut off":      {image: bzImage(pack(`\177ELF`), 4)[:1030], says: "cut off"},
		"not an ELF":   {image: bzImage(pack("text"), 4), says: "no ELF"},
		"damaged":      {image: bzImage(append(pack("x")[:20], 1, 2, 3), 4), says: "xz: exit status 1"},
		"other packer": {image: bzImage([]byte("BZh9 and so on"), 4), says: `"BZh9 and`},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "vmlinuz")
			require.NoError(t, os.WriteFile(path, c.image, 0o600))
			out, err := unpackKernel(t.Context(), path)
			if c.says != "" {
				require.ErrorContains(t, err, c.says)
				assert.NoFileExists(t, filepath.Join(filepath.Dir(path), "vmlinux"))
				return
			}
			require.NoError(t, err)
			b, err := os.ReadFile(out)
			require.NoError(t, err)
			assert.Equal(t, "\x7fELF and the rest", string(b))
			require.NoError(t, os.Remove(path), "the second time it is there")
			again, err := unpackKernel(t.Context(), path)
			require.NoError(t, err)
			assert.Equal(t, out, again)
		})
	}
}
