// Package newc writes cpio archives in the "newc" form that the Linux kernel
// unpacks as an initramfs. It only writes, and only what an initramfs needs.
// It imports the standard library alone.
package newc

import (
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
)

// File types, as in st_mode.
const (
	typeMask    = 0o170000
	TypeDir     = 0o040000
	TypeRegular = 0o100000
	TypeSymlink = 0o120000
	TypeChar    = 0o020000
)

const (
	magic   = "070701"
	trailer = "TRAILER!!!"
)

// Header describes one entry. Owner and group are root and the time is the
// epoch in every entry, so that archives of the same content are the same.
type Header struct {
	Name         string // path without a leading slash
	Mode         uint32 // type and permission bits
	Size         int64
	Major, Minor uint32 // of a device
}

// Writer writes an archive. Its methods must not be called concurrently.
type Writer struct {
	w     io.Writer
	ino   uint32
	off   int64
	wrote bool // the trailer is written
}

// NewWriter returns a Writer to w. Close ends the archive and leaves w open.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

// Add writes one entry with its content, of which it takes exactly h.Size bytes.
// A content that ends early is an error that leaves the archive unusable.
func (w *Writer) Add(h Header, content io.Reader) error {
	switch {
	case w.wrote:
		return errors.New("newc: add to a closed archive")
	case h.Name == "" || h.Name == trailer || strings.ContainsRune(h.Name, 0):
		return fmt.Errorf("newc: bad entry name %q", h.Name)
	case h.Size < 0 || h.Size > math.MaxUint32:
		return fmt.Errorf("newc: %s: size %d does not fit the format", h.Name, h.Size)
	case h.Mode&typeMask == 0:
		return fmt.Errorf("newc: %s: mode %o has no file type", h.Name, h.Mode)
	}
	return w.add(h, content)
}

func (w *Writer) add(h Header, content io.Reader) error {
	w.ino++
	nlink := 1
	if h.Mode&typeMask == TypeDir {
		nlink = 2
	}
	head := fmt.Sprintf("%s%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		magic, w.ino, h.Mode, 0, 0, nlink, 0, h.Size, 0, 0, h.Major, h.Minor, len(h.Name)+1, 0, h.Name)
	if err := w.write(head); err != nil {
		return fmt.Errorf("newc: %s: %w", h.Name, err)
	}
	if err := w.pad(); err != nil {
		return fmt.Errorf("newc: %s: %w", h.Name, err)
	}
	if h.Size > 0 {
		n, err := io.CopyN(w.w, content, h.Size)
		w.off += n
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return fmt.Errorf("newc: %s: %w", h.Name, err)
		}
	}
	if err := w.pad(); err != nil {
		return fmt.Errorf("newc: %s: %w", h.Name, err)
	}
	return nil
}

// Close writes the end mark.
func (w *Writer) Close() error {
	if w.wrote {
		return nil
	}
	w.wrote = true
	return w.add(Header{Name: trailer}, nil)
}

func (w *Writer) write(s string) error {
	n, err := io.WriteString(w.w, s)
	w.off += int64(n)
	return err
}

// pad fills up to the next multiple of four bytes.
func (w *Writer) pad() error {
	return w.write("\x00\x00\x00"[:(4-w.off%4)%4])
}
