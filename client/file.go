package client

import (
	"context"
	"errors"
	"io"
	"os"
	"path"
	"strings"
	"sync/atomic"

	"github.com/hugelgupf/p9/linux"

	"vmfs/ninep/wire"
)

// The flags of Tlopen as 9P2000.L numbers them on every system, beside the modes.
const (
	openTruncate = 0o1000
	openAppend   = 0o2000
)

// A File is an open file, read and written from the start on, each in its own
// direction. A read and a write may be under way at once, but not two of the same
// kind.
type File struct {
	c       *Client
	fid     uint32
	name    string
	rdOff   atomic.Uint64 // a Write that failed reads too
	wrOff   uint64
	short   bool   // the last read got something, and less than it asked for
	last    string // what the last Write wrote, if it failed
	answers bool   // a failed command is then read as why, by a Read under way too
}

// Open opens a file. Flag is one of os.O_RDONLY, os.O_WRONLY and os.O_RDWR, with
// os.O_TRUNC (as a shell's > does: the first write to a config replaces it) or
// os.O_APPEND (as >> does).
//
// An open may wait: that of a port in vsock/listen for the guest. A ctl file that is opened
// to write is opened to read too, if the caller may: after a command that failed it
// reads as why, which then is the error's text.
func (c *Client) Open(ctx context.Context, name string, flag int) (*File, error) {
	f, err := c.openCtl(ctx, name, flag)
	if err != nil {
		if as, ok := streamCommand(name); ok {
			err = c.explain(ctx, Split(name)[0], as, err)
		}
		return nil, err
	}
	return f, nil
}

func (c *Client) openCtl(ctx context.Context, name string, flag int) (*File, error) {
	const modes = os.O_RDONLY | os.O_WRONLY | os.O_RDWR
	last := path.Base(path.Clean("/" + name))
	if last != "ctl" && last != "clone" || flag&modes == os.O_RDONLY {
		return c.open(ctx, name, flag)
	}
	f, err := c.open(ctx, name, flag&^modes|os.O_RDWR)
	if errors.Is(err, linux.EACCES) && flag&modes == os.O_WRONLY {
		return c.open(ctx, name, flag)
	}
	if err == nil {
		f.answers = true
	}
	return f, err
}

// open is Open, with a number for an error.
func (c *Client) open(ctx context.Context, name string, flag int) (*File, error) {
	fid, err := c.walk(ctx, name)
	if err != nil {
		return nil, err
	}
	m := wire.Msg{Fid: fid, Flags: uint32(flag & (os.O_RDONLY | os.O_WRONLY | os.O_RDWR))}
	if flag&os.O_TRUNC != 0 {
		m.Flags |= openTruncate
	}
	if flag&os.O_APPEND != 0 {
		m.Flags |= openAppend
	}
	if err := c.conn.call(ctx, wire.Tlopen, &m, nil, nil); err != nil {
		c.conn.clunk(ctx, fid)
		return nil, err
	}
	return &File{c: c, fid: fid, name: name}, nil
}

// Read reads what there is, as one message: of a file that blocks, what comes next. The
// end of the file is io.EOF.
func (f *File) Read(ctx context.Context, p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	// A server may end what looks like the read(2) of Linux's v9fs, which goes on until its
	// buffer is full: a read of what a short one has left open, as io.ReadFull makes them.
	// That is not the end of the file, and is said once.
	n, err := f.read(ctx, p)
	if n == 0 && err == nil && f.short {
		n, err = f.read(ctx, p)
	}
	f.rdOff.Add(uint64(n))
	f.short = n > 0 && n < min(len(p), f.c.io)
	if n == 0 && err == nil {
		err = io.EOF
	}
	return n, err
}

func (f *File) read(ctx context.Context, p []byte) (int, error) {
	p = p[:min(len(p), f.c.io)]
	m := wire.Msg{Fid: f.fid, Offset: f.rdOff.Load(), Count: uint32(len(p))}
	err := f.c.conn.call(ctx, wire.Tread, &m, p, nil)
	return len(m.Data), err
}

// Write writes p, in as many messages as it takes.
func (f *File) Write(ctx context.Context, p []byte) (int, error) {
	for done := 0; ; {
		m := wire.Msg{Fid: f.fid, Offset: f.wrOff, Data: p[done:min(len(p), done+f.c.io)]}
		if err := f.c.conn.call(ctx, wire.Twrite, &m, nil, nil); err != nil {
			f.last = string(p)
			return done, f.explain(ctx, err)
		}
		f.wrOff += uint64(m.Count)
		done += int(m.Count)
		switch {
		case done == len(p):
			return done, nil
		case m.Count == 0 || done > len(p):
			return min(done, len(p)), io.ErrShortWrite
		}
	}
}

// Clunk closes the file. A server may have kept what was written until then, and say
// only now that it failed; and what is written to a guest's stream ends here.
func (f *File) Clunk(ctx context.Context) error {
	return f.explain(ctx, f.c.conn.clunk(ctx, f.fid))
}

// explain gives the error of a command the server's own words.
func (f *File) explain(ctx context.Context, err error) error {
	var e *Error
	if err == nil || !errors.As(err, &e) || e.Text != "" {
		return err
	}
	if f.answers {
		buf := make([]byte, f.c.io)
		if n, rerr := f.read(ctx, buf); rerr == nil && n > 0 {
			return &Error{Errno: e.Errno, Text: strings.TrimSpace(string(buf[:n]))}
		}
	}
	if names := Split(f.name); len(names) == 2 {
		err = f.c.explain(ctx, names[0], names[1]+" "+f.last, err)
	}
	return err
}

// Close is Clunk for as long as the connection lasts.
func (f *File) Close() error { return f.Clunk(f.c.conn.ctx) }

// With returns the file as an io.ReadWriter whose calls obey ctx.
func (f *File) With(ctx context.Context) io.ReadWriter { return bound{f, ctx} }

type bound struct {
	f   *File
	ctx context.Context
}

func (b bound) Read(p []byte) (int, error)  { return b.f.Read(b.ctx, p) }
func (b bound) Write(p []byte) (int, error) { return b.f.Write(b.ctx, p) }

// ReadFile returns what a file has.
func (c *Client) ReadFile(ctx context.Context, name string) ([]byte, error) {
	f, err := c.Open(ctx, name, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer f.Clunk(ctx)
	return io.ReadAll(f.With(ctx))
}

// WriteFile writes data as > does: it replaces a config, and runs the commands of a
// ctl file.
func (c *Client) WriteFile(ctx context.Context, name string, data []byte) error {
	f, err := c.Open(ctx, name, os.O_WRONLY|os.O_TRUNC)
	if err != nil {
		return err
	}
	_, err = f.Write(ctx, data)
	if cerr := f.Clunk(ctx); err == nil {
		err = cerr
	}
	return err
}
