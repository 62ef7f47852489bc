package disk

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"vmfs/backends/hypervisor"
)

// maxChain bounds the images of a chain.
const maxChain = 32

// A Layer is one image of a chain.
type Layer struct {
	Path   string
	Format hypervisor.DiskFormat // never ""
	Device bool                  // a block device
}

// A Chain is an image and what is below it, as the headers say at this moment: a qcow2 can
// have a backing file, for what it does not have itself.
//
// A format is never a guess. Whoever guesses takes a raw image for a qcow2 because its
// guest has written a header there, and that one can name any file of the host as its
// backing file. So an image that does not declare its backing file's format is refused,
// and QEMU gets every file of the chain with its format (see Options) and follows no header.
type Chain []Layer

// ChainOf reads the chain of an image of the format given; "" is raw.
func ChainOf(image string, format hypervisor.DiskFormat) (Chain, error) {
	var c Chain
	for {
		if len(c) == maxChain {
			return nil, fmt.Errorf("below it are more than %d images, or it is below itself: %w", maxChain, hypervisor.ErrInvalid)
		}
		next, err := c.add(image, format)
		if err != nil && len(c) > 1 {
			err = fmt.Errorf("%s: %w", image, err)
		}
		if err != nil || next == nil {
			return c, err
		}
		image, format = next.Path, next.Format
	}
}

// add adds an image to the chain, and returns what is below it.
func (c *Chain) add(image string, format hypervisor.DiskFormat) (below *Layer, err error) {
	f, mode, err := Open(image, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if format == "" {
		format = hypervisor.DiskRaw
	}
	*c = append(*c, Layer{image, format, mode&fs.ModeDevice != 0})
	if format != hypervisor.DiskQCOW2 {
		return nil, nil
	}
	h, err := readQCOW2(f)
	switch {
	case err != nil:
		return nil, err
	case h.external:
		return nil, fmt.Errorf("its data are in another file, which its header names, and no header is followed: `%s` makes one file of it: %w",
			command("qemu-img convert -O qcow2", image, image+".new"), hypervisor.ErrNotSupported)
	case h.backing == "":
		return nil, nil
	}
	path, err := backingPath(image, h.backing)
	if err != nil {
		return nil, err
	}
	switch f := hypervisor.DiskFormat(h.format); f {
	case hypervisor.DiskRaw, hypervisor.DiskQCOW2:
		return &Layer{Path: path, Format: f}, nil
	case "":
		return nil, fmt.Errorf("it does not declare the format of its backing file %s, and a format is never guessed: `%s` declares it, if that is raw, and with -F qcow2 if it is that: %w",
			path, command("qemu-img rebase -u -f qcow2 -F raw -b", h.backing, image), hypervisor.ErrInvalid)
	}
	return nil, fmt.Errorf("its backing file %s is said to be %.20q, and only raw and qcow2 are read: `%s` makes one file of both: %w",
		path, h.format, command("qemu-img convert -O qcow2", image, image+".new"), hypervisor.ErrNotSupported)
}

// command is a command as a shell takes it.
func command(words string, paths ...string) string {
	for _, p := range paths {
		if strings.ContainsFunc(p, func(r rune) bool { return r < '+' || r > 'z' || strings.ContainsRune(";<>?[\\]^`", r) }) {
			p = "'" + strings.ReplaceAll(p, "'", `'\''`) + "'"
		}
		words += " " + p
	}
	return words
}

// backingPath is the path of a backing file, of which an image's header says the name. A
// name that is no path, but a URL or a description, is refused.
func backingPath(image, name string) (string, error) {
	if i := strings.IndexAny(name, ":/"); i >= 0 && name[i] == ':' {
		scheme, rest := name[:i], name[i+1:]
		if scheme != "file" || rest == "" {
			return "", fmt.Errorf("its backing file is called %q, which is no path: %w", name, hypervisor.ErrNotSupported)
		}
		name = rest
	}
	if !filepath.IsAbs(name) {
		name = filepath.Join(filepath.Dir(image), name)
	}
	return name, nil
}

// Options is the chain as QEMU's block layer and qemu-img take it: the node of the image,
// with the nodes below it spelled out. QEMU looks for none by itself then.
func (c Chain) Options() map[string]any {
	l := c[0]
	file := map[string]any{"driver": "file", "filename": l.Path}
	if l.Device {
		file["driver"] = "host_device"
	}
	node := map[string]any{"driver": l.Format, "file": file}
	if l.Format != hypervisor.DiskQCOW2 {
		return node
	}
	node["backing"] = nil
	if len(c) > 1 {
		below := c[1:].Options()
		below["read-only"] = true
		node["backing"] = below
	}
	return node
}
