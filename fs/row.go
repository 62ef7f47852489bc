package fs

import (
	"context"

	"github.com/hugelgupf/p9/p9"

	"vmfs/streams"
)

// A row is one file of a directory, and all that is known of it: the tree, its
// listings and the manual's tables come from there. A row's place is part of its
// file's qid: new rows come last.
type row struct {
	name string
	perm uint32 // the most that a mode can allow
	help string

	// read appends the content of a text file to b, and write carries out what is
	// written to it.
	read  func(b []byte, n *node) ([]byte, error)
	write func(ctx context.Context, n *node, text string) error
	// answers tells that after a write that failed the file reads as why.
	answers bool
	// set takes, in place of write, whole lines of what is written to a file that
	// can be truncated before.
	set func(ctx context.Context, n *node, text string, replace bool) error
	// readAt reads a file that is kept on the disk, in a goroutine of its own and with
	// no lock held: a disk takes its time.
	readAt func(n *node, p []byte, off int64) (int, error)
	// begin gives the row that stands for a file which is made by its opening, and
	// what its close ends.
	begin func(ctx context.Context, n *node) (r row, end func(), err error)

	stream opener
	// acts tells that to open the file is to act on the guest, or to take from others
	// who do: it needs w, whatever it is opened for.
	acts bool
	// holds is what a file has the server hold while it is open: for a stream beside
	// streamBytes.
	holds cost
	dir   *dirKind
}

// A cost is how many bytes and descriptors something takes.
type cost struct{ bytes, descriptors int }

// streamBytes is what any stream takes, beside a fid.
const streamBytes = 4 << 10

// opener opens a stream for what mode asks for.
type opener func(ctx context.Context, n *node, mode p9.OpenFlags) (streams.Stream, error)

// plain is an opener where the mode makes no difference.
func plain(open func(n *node) streams.Stream) opener {
	return func(_ context.Context, n *node, _ p9.OpenFlags) (streams.Stream, error) { return open(n), nil }
}

func (r *row) typ() p9.QIDType {
	if r.dir != nil {
		return p9.TypeDir
	}
	return p9.TypeRegular
}

// newFile returns a fid on the file of a row.
func newFile(n node, r *row) file {
	n.acts = r.acts
	switch {
	case r.stream != nil:
		return &streamFile{node: n, row: r}
	case r.begin != nil:
		return &begunFile{textFile: textFile{node: n}, kind: r}
	case r.readAt != nil:
		return &diskFile{textFile{node: n, row: r}}
	case r.set != nil:
		return &configFile{textFile: textFile{node: n, row: r}}
	}
	f := n.s.fids.text()
	f.node, f.row = n, r
	return f
}

func findRow(rows []row, name string) (int, bool) {
	for i := range rows {
		if rows[i].name == name {
			return i, true
		}
	}
	return 0, false
}

// File is one line of the table of files, for the manual.
type File struct {
	Name  string
	Perm  uint32 // the permission bits that it can have
	Help  string
	Write bool
	Waits bool // reading waits for something to happen
}

// VMFiles returns the table of the files of a VM directory.
func VMFiles() []File { return describe(vmKind.rows) }

// RootNames returns the names of the files of the root, which no VM can have.
func RootNames() (names []string) {
	for _, r := range rootKind.rows {
		names = append(names, r.name)
	}
	return names
}

// RootFiles returns the table of the files of the root besides the VMs.
func RootFiles() []File { return describe(rootKind.rows) }

func describe(rows []row) []File {
	files := make([]File, len(rows))
	for i, r := range rows {
		files[i] = File{Name: r.name, Perm: r.perm, Help: r.help, Write: r.perm&0o222 != 0, Waits: r.stream != nil}
	}
	return files
}
