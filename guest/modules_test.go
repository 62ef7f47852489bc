package guest

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/ulikunitz/xz"
)

// fakeModule returns a minimal ELF file with a .modinfo section.
func fakeModule(t testing.TB, modinfo ...string) []byte {
	t.Helper()
	info := strings.Join(append(modinfo, ""), "\x00")
	names := "\x00.modinfo\x00.shstrtab\x00"
	const ehsize, shsize = 64, 64
	var b bytes.Buffer
	put := func(v any) { require.NoError(t, binary.Write(&b, binary.LittleEndian, v)) }
	put(elf.Header64{
		Ident: [16]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_REL), Machine: uint16(elf.EM_X86_64), Version: 1,
		Shoff: uint64(ehsize + len(info) + len(names)), Ehsize: ehsize, Shentsize: shsize, Shnum: 3, Shstrndx: 2,
	})
	b.WriteString(info)
	b.WriteString(names)
	put(elf.Section64{})
	put(elf.Section64{Name: 1, Type: uint32(elf.SHT_PROGBITS), Off: ehsize, Size: uint64(len(info))})
	put(elf.Section64{Name: 10, Type: uint32(elf.SHT_STRTAB), Off: uint64(ehsize + len(info)), Size: uint64(len(names))})
	return b.Bytes()
}

func writeFile(t testing.TB, path string, data []byte) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, data, 0o644))
}

// fakeTree makes a modules directory: d needs c and b, c needs a, and so on.
func fakeTree(t testing.TB, dir string) {
	t.Helper()
	compress := func(data []byte, ext string) []byte {
		var b bytes.Buffer
		switch ext {
		case ".xz":
			w, err := xz.NewWriter(&b)
			require.NoError(t, err)
			_, err = w.Write(data)
			require.NoError(t, err)
			require.NoError(t, w.Close())
		case ".gz":
			w := gzip.NewWriter(&b)
			_, err := w.Write(data)
			require.NoError(t, err)
			require.NoError(t, w.Close())
		default:
			return data
		}
		return b.Bytes()
	}
	for _, m := range []struct{ path, ext, depends, softdep string }{
		{"kernel/lib/a.ko", "", "", ""},
		{"kernel/lib/b-dash.ko", ".xz", "a,builtin_one", ""},
		{"kernel/net/c.ko", ".gz", "a", ""},
		{"kernel/net/d.ko", "", "c,b_dash", ""},
		{"kernel/net/soft.ko", "", "", "softdep=pre: c absent post: d"},
		{"kernel/net/round.ko", "", "", "softdep=pre: trip"},
		{"kernel/net/trip.ko", "", "round", ""},
		{"kernel/net/loop1.ko", "", "loop2", ""},
		{"kernel/net/loop2.ko", "", "loop1", ""},
		{"kernel/net/broken.ko", "", "nowhere", ""},
	} {
		ko := fakeModule(t, "license=GPL", "depends="+m.depends, m.softdep, "name="+moduleName(m.path))
		writeFile(t, filepath.Join(dir, m.path+m.ext), compress(ko, m.ext))
	}
	writeFile(t, filepath.Join(dir, "kernel/net/noelf.ko"), []byte("this is no ELF file"))
	writeFile(t, filepath.Join(dir, "kernel/net/noxz.ko.xz"), []byte("no xz file"))
	writeFile(t, filepath.Join(dir, "kernel/net/zstd.ko.zst"), []byte("x"))
	writeFile(t, filepath.Join(dir, "kernel/drivers/virtio/virtio_pci.ko"), fakeModule(t, "depends=a"))
	writeFile(t, filepath.Join(dir, "modules.builtin"), []byte("kernel/x/builtin-one.ko\nkernel/x/button.ko\n"))
}

func TestClosure(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "lib/modules/1.2.3-cloud-amd64")
	fakeTree(t, dir)
	tree, err := openModuleTree(dir)
	require.NoError(t, err)
	assert.Equal(t, "1.2.3-cloud-amd64", tree.release)
	assert.True(t, tree.has("builtin-one") && tree.has("b_dash") && tree.has("b-dash"))
	assert.False(t, tree.has("absent"))

	for _, tc := range []struct {
		names string
		want  string // in loading order
	}{
		{"a", "a"},
		{"builtin_one", ""},
		{"d", "a c b_dash d"},
		{"b-dash d a", "a b_dash c d"},
		{"soft", "a c soft"},
		{"round", "round"}, // the soft dependency is in a circle with it and gives way
		{"trip", "round trip"},
	} {
		t.Run(tc.names, func(t *testing.T) {
			mods, err := tree.closure(strings.Fields(tc.names))
			require.NoError(t, err)
			var names []string
			for _, m := range mods {
				names = append(names, m.name)
				assert.Equal(t, ".ko", filepath.Ext(m.path))
				_, err := elf.NewFile(bytes.NewReader(m.data))
				assert.NoError(t, err, "%s is unpacked", m.name)
			}
			assert.Equal(t, tc.want, strings.Join(names, " "))
		})
	}

	t.Run("missing", func(t *testing.T) {
		_, err := tree.closure([]string{"broken"})
		var me *ModuleError
		require.ErrorAs(t, err, &me)
		assert.Equal(t, ModuleError{"nowhere", "1.2.3-cloud-amd64"}, *me)
		assert.Contains(t, err.Error(), "needed by broken")
		assert.Contains(t, err.Error(), "without -cloud-", "what to do")
	})
	for name, says := range map[string]string{
		"loop1": "depends on itself", "noelf": "bad magic", "noxz": "noxz.ko.xz", "zstd": "not supported",
	} {
		_, err := tree.closure([]string{name})
		require.Error(t, err, name)
		assert.Contains(t, err.Error(), says)
	}
}

func TestOpenModuleTreeWrong(t *testing.T) {
	_, err := openModuleTree(t.TempDir())
	require.ErrorIs(t, err, os.ErrNotExist)
	assert.Contains(t, err.Error(), "lib/modules/RELEASE")
}

func FuzzParseModinfo(f *testing.F) {
	f.Add([]byte("depends=a,b\x00softdep=pre: x post: y\x00"))
	f.Add([]byte("softdep=\x00depends=,,\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		mi := parseModinfoSection(data)
		for _, name := range append(mi.depends, mi.softdep...) {
			if strings.ContainsAny(name, "\x00-") {
				t.Errorf("bad name %q", name)
			}
		}
		_, _ = parseModinfo(data) // must not panic
	})
}
