package guest

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"vmfs/guest/internal/newc"
)

// entry is one file of the initramfs.
type entry struct {
	mode         uint32 // type and permissions, as in newc
	major, minor uint32
	size         int64
	open         func() (io.ReadCloser, error)
}

// image collects the entries of an initramfs by their path without a leading slash.
type image map[string]entry

func (im image) dir(name string, perm uint32) { im[name] = entry{mode: newc.TypeDir | perm} }

func (im image) char(name string, perm, major, minor uint32) {
	im[name] = entry{mode: newc.TypeChar | perm, major: major, minor: minor}
}

func (im image) symlink(name, target string) {
	im.content(name, newc.TypeSymlink|0o777, []byte(target))
}

func (im image) content(name string, mode uint32, data []byte) {
	im[name] = entry{mode: mode, size: int64(len(data)), open: func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(data)), nil
	}}
}

// hostFile adds a file of the host, read when the image is written.
func (im image) hostFile(name, host string, perm uint32) error {
	fi, err := os.Stat(host)
	if err != nil {
		return err
	}
	if !fi.Mode().IsRegular() {
		return &fs.PathError{Op: "add", Path: host, Err: errors.New("not a regular file")}
	}
	if perm == 0 {
		perm = uint32(fi.Mode().Perm())
	}
	im[name] = entry{mode: newc.TypeRegular | perm, size: fi.Size(), open: func() (io.ReadCloser, error) {
		return os.Open(host)
	}}
	return nil
}

// parents adds the directories that entries need and that nobody asked for.
func (im image) parents() {
	for _, name := range im.names() {
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			if _, ok := im[dir]; !ok {
				im.dir(dir, 0o755)
			}
		}
	}
}

func (im image) names() []string {
	names := make([]string, 0, len(im))
	for name := range im {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// writeTo writes the image as a compressed cpio archive. Sorted by path, parents
// come before what is in them.
func (im image) writeTo(w io.Writer) error {
	im.parents()
	zw, err := gzip.NewWriterLevel(w, gzip.DefaultCompression)
	if err != nil {
		return err
	}
	cw := newc.NewWriter(zw)
	for _, name := range im.names() {
		if err := im[name].writeTo(cw, name); err != nil {
			return err
		}
	}
	if err := cw.Close(); err != nil {
		return err
	}
	return zw.Close()
}

func (e entry) writeTo(cw *newc.Writer, name string) error {
	h := newc.Header{Name: name, Mode: e.mode, Size: e.size, Major: e.major, Minor: e.minor}
	if e.open == nil {
		return cw.Add(h, nil)
	}
	r, err := e.open()
	if err != nil {
		return err
	}
	defer r.Close()
	return cw.Add(h, r)
}

// cleanGuestPath returns the image's name for a path in the guest.
func cleanGuestPath(p string) (string, error) {
	name := strings.TrimPrefix(path.Clean("/"+p), "/")
	if name == "" || strings.ContainsRune(p, 0) {
		return "", fmt.Errorf("%q is not a path for a file in the guest", p)
	}
	return name, nil
}

var elfMachine = map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}

// checkStatic reports whether a file is a static Linux program for the
// architecture. A dynamic one would need a loader and libraries in the image,
// and as init it would end in a kernel panic that says nothing of the reason.
func checkStatic(file, arch string) error {
	f, err := elf.Open(file)
	if err != nil {
		return fmt.Errorf("%s is not a Linux program: %w", file, err)
	}
	defer f.Close()
	if want, ok := elfMachine[arch]; ok && f.Machine != want {
		return fmt.Errorf("%s is a program for %v, the guest is %s", file, f.Machine, arch)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return fmt.Errorf("%s is linked dynamically", file)
		}
	}
	return nil
}
