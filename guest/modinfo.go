package guest

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/ulikunitz/xz"
)

// maxModule bounds an unpacked module, so that a damaged file cannot fill memory.
// The largest in Debian's 6.12 is 13 MiB.
const maxModule = 256 << 20

// readModule returns a module's ELF file, unpacked if it is compressed.
func readModule(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var r io.Reader = f
	switch filepath.Ext(path) {
	case ".ko":
	case ".xz":
		r, err = xz.NewReader(f)
	case ".gz":
		r, err = gzip.NewReader(f)
	default:
		return nil, fmt.Errorf("%s: this compression is not supported: use .ko, .ko.xz or .ko.gz", path)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	data, err := io.ReadAll(io.LimitReader(r, maxModule+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(data) > maxModule {
		return nil, fmt.Errorf("%s: larger than %d MiB when unpacked", path, maxModule>>20)
	}
	return data, nil
}

// modinfo is what a module says of itself and loading needs.
type modinfo struct {
	depends []string // must be loaded before
	softdep []string // are better loaded before, if the kernel has them
}

// parseModinfo reads the .modinfo section of a module: strings key=value, each ended by NUL.
func parseModinfo(ko []byte) (modinfo, error) {
	f, err := elf.NewFile(bytes.NewReader(ko))
	if err != nil {
		return modinfo{}, err
	}
	s := f.Section(".modinfo")
	if s == nil {
		return modinfo{}, fmt.Errorf("no .modinfo section: not a kernel module")
	}
	data, err := s.Data()
	if err != nil {
		return modinfo{}, err
	}
	return parseModinfoSection(data), nil
}

func parseModinfoSection(data []byte) modinfo {
	var mi modinfo
	for line := range strings.SplitSeq(string(data), "\x00") {
		switch key, value, _ := strings.Cut(line, "="); key {
		case "depends":
			for name := range strings.SplitSeq(value, ",") {
				if name != "" {
					mi.depends = append(mi.depends, moduleName(name))
				}
			}
		case "softdep": // "pre: a b post: c"
			pre := false
			for word := range strings.FieldsSeq(value) {
				if strings.HasSuffix(word, ":") {
					pre = word == "pre:"
				} else if pre {
					mi.softdep = append(mi.softdep, moduleName(word))
				}
			}
		}
	}
	return mi
}

// moduleName returns a module's name in the kernel's spelling, from a name or a
// file name: 9pnet_fd for 9pnet-fd.ko.xz.
func moduleName(s string) string {
	name, _, _ := strings.Cut(filepath.Base(s), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}
