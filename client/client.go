package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path"
	"slices"
	"strings"

	"github.com/hugelgupf/p9/linux"
	"github.com/hugelgupf/p9/p9"

	"vmfs/ninep/dial"
	"vmfs/ninep/wire"
)

// DefaultMessageSize is the largest message that a client proposes unless told
// otherwise. The server may lower it.
const DefaultMessageSize = 64 << 10

const (
	// minMessageSize is room for a name as long as names get.
	minMessageSize = 1 << 10
	// ioHeader is what surrounds the data of a read or a write (Plan 9's IOHDRSZ).
	ioHeader = 24

	version = "9P2000.L"
)

// Config says how to attach. The zero value is right for a vmfs server.
type Config struct {
	// MessageSize is the largest message in bytes, 0 for DefaultMessageSize.
	MessageSize uint32
	// User is the name to attach by. A server that knows who is at the other end of
	// the connection goes by that.
	User string
	// Root is the tree to attach to, if the server has several (aname).
	Root string
}

// A Client is an attached connection to a server. Its methods may be called at the
// same time from several goroutines.
type Client struct {
	conn *conn
	root uint32 // the fid
	io   int    // the most data of one read or write
}

// Dial connects to the server at addr, in Plan 9's dial form (unix!/path,
// tcp!host!port, vsock!cid!port), and attaches. An error is a [*DialError], or a
// dial.ErrAddress for what is no address.
func (c Config) Dial(ctx context.Context, addr string) (*Client, error) {
	if _, err := dial.Parse(addr); err != nil {
		return nil, err
	}
	fail := func(err error) error {
		if errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("no answer in time: %w", context.DeadlineExceeded)
		}
		return &DialError{addr, rootCause(err)}
	}
	conn, err := dial.Dial(ctx, addr)
	if err != nil {
		return nil, fail(err)
	}
	client, err := c.Attach(ctx, conn)
	if err != nil {
		return nil, fail(err)
	}
	return client, nil
}

// Dial is Config{}.Dial.
func Dial(ctx context.Context, addr string) (*Client, error) { return Config{}.Dial(ctx, addr) }

// Attach attaches over a connection, which from then on is the Client's, and is closed if
// that fails.
func (c Config) Attach(ctx context.Context, nc net.Conn) (*Client, error) {
	if c.MessageSize == 0 {
		c.MessageSize = DefaultMessageSize
	}
	n := newConn(nc, c.MessageSize)
	client, err := c.attach(ctx, n)
	if err != nil {
		n.close()
		return nil, err
	}
	return client, nil
}

func (c Config) attach(ctx context.Context, n *conn) (*Client, error) {
	m := wire.Msg{Count: c.MessageSize, Name: version}
	if err := n.call(ctx, wire.Tversion, &m, nil, nil); err != nil {
		return nil, err
	}
	switch {
	case m.Name != version:
		return nil, fmt.Errorf("the server speaks %q, not %s", m.Name, version)
	case m.Count > c.MessageSize, m.Count < minMessageSize:
		return nil, fmt.Errorf("%w: messages of %d bytes", errProtocol, m.Count)
	}
	n.mu.Lock()
	n.msize = m.Count
	n.mu.Unlock()
	client := &Client{conn: n, root: n.newFid(), io: int(m.Count) - ioHeader}
	m = wire.Msg{Fid: client.root, Fid2: wire.NoFid, Name: c.User, Name2: c.Root, UID: wire.NoUser}
	return client, n.call(ctx, wire.Tattach, &m, nil, nil)
}

// Close ends the connection, and with it every call and open file. It never fails.
func (c *Client) Close() error {
	c.conn.close()
	return nil
}

// MaxIO is the most bytes of one read or write.
func (c *Client) MaxIO() int { return c.io }

// Split returns the names on the way to name from the root.
func Split(name string) []string {
	name = strings.Trim(path.Clean("/"+name), "/")
	if name == "" {
		return nil
	}
	return strings.Split(name, "/")
}

// walk returns a new fid for name.
func (c *Client) walk(ctx context.Context, name string) (uint32, error) {
	return c.walkFrom(ctx, c.root, Split(name))
}

func (c *Client) walkFrom(ctx context.Context, from uint32, names []string) (uint32, error) {
	fid := c.conn.newFid()
	for at, most := from, wire.MaxNames; ; {
		part := names[:min(len(names), most)]
		m := wire.Msg{Fid: at, Fid2: fid, Names: part}
		err := c.conn.call(ctx, wire.Twalk, &m, nil, func() { c.conn.clunk(c.conn.ctx, fid) })
		if err == nil && len(m.QIDs) == 0 && len(part) > 0 {
			err = &Error{Errno: linux.ENOENT} // which a server should say itself
		}
		var said *Error
		switch {
		case err == nil && len(m.QIDs) < len(part):
			// It got part of the way and changed no fid. The error of the name after that
			// is told to who walks to it from there.
			most = len(m.QIDs)
		case err == nil:
			if names = names[len(part):]; len(names) == 0 {
				return fid, nil
			}
			at, most = fid, wire.MaxNames
		case at == fid:
			c.conn.clunk(ctx, fid)
			return 0, err
		case errors.As(err, &said):
			c.conn.freeFid(fid)
			return 0, err
		default: // who knows whether the server has it
			return 0, err
		}
	}
}

// with walks to name, calls f with the fid and clunks it.
func (c *Client) with(ctx context.Context, name string, f func(fid uint32) error) error {
	fid, err := c.walk(ctx, name)
	if err != nil {
		return err
	}
	defer c.conn.clunk(ctx, fid)
	return f(fid)
}

// Info is what the server says of a file.
type Info struct {
	QID  p9.QID
	Attr p9.Attr
}

// Stat returns a file's attributes. The size of what a server generates is 0.
func (c *Client) Stat(ctx context.Context, name string) (info Info, err error) {
	err = c.with(ctx, name, func(fid uint32) error {
		info, err = c.stat(ctx, fid)
		return err
	})
	return info, err
}

func (c *Client) stat(ctx context.Context, fid uint32) (Info, error) {
	m := wire.Msg{Fid: fid, Mask: p9.AttrMaskAll}
	if err := c.conn.call(ctx, wire.Tgetattr, &m, nil, nil); err != nil {
		return Info{}, err
	}
	return Info{QID: m.QID, Attr: *m.Attr}, nil
}

// An Entry is one of a directory.
type Entry struct {
	Name string
	QID  p9.QID
}

// IsDir reports whether the entry is a directory.
func (e Entry) IsDir() bool { return e.QID.Type&p9.TypeDir != 0 }

// ReadDir returns the entries of a directory, sorted by name.
func (c *Client) ReadDir(ctx context.Context, name string) (entries []Entry, err error) {
	err = c.with(ctx, name, func(fid uint32) error {
		if err := c.conn.call(ctx, wire.Tlopen, &wire.Msg{Fid: fid}, nil, nil); err != nil {
			return err
		}
		var codec wire.Codec
		buf := make([]byte, min(c.io, 32<<10))
		for offset := uint64(0); ; {
			m := wire.Msg{Fid: fid, Offset: offset, Count: uint32(len(buf))}
			if err := c.conn.call(ctx, wire.Treaddir, &m, buf, nil); err != nil {
				return err
			}
			list, err := codec.Dirents(m.Data)
			if err != nil {
				return fmt.Errorf("%w: %w", errProtocol, err)
			}
			if len(list) == 0 {
				return nil
			}
			for _, d := range list {
				offset = d.Offset
				if d.Name != "." && d.Name != ".." {
					entries = append(entries, Entry{d.Name, d.QID})
				}
			}
		}
	})
	slices.SortFunc(entries, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
	return entries, err
}

// errRoot is the error of making or removing the root.
var errRoot = errors.New("that is the root")

// Mkdir makes a directory; in the root that is a VM, in a VM's snapshots it takes a
// snapshot.
func (c *Client) Mkdir(ctx context.Context, name string, perm uint32) error {
	err := c.inDir(ctx, name, wire.Tmkdir, wire.Msg{Mode: perm, GID: wire.NoUser})
	if names := Split(name); len(names) == 3 {
		err = c.explain(ctx, names[0], "snapshot", err)
	}
	return err
}

// Rmdir removes a directory: a VM, or a snapshot.
func (c *Client) Rmdir(ctx context.Context, name string) error {
	const removeDir = 0x200 // AT_REMOVEDIR, as 9P2000.L numbers it on every system
	err := c.inDir(ctx, name, wire.Tunlinkat, wire.Msg{Flags: removeDir})
	switch names := Split(name); len(names) {
	case 1:
		err = c.explain(ctx, names[0], "delete", err)
	case 3:
		err = c.explain(ctx, names[0], "delete-snapshot", err)
	}
	return err
}

// inDir sends m with the directory and the last part of a name.
func (c *Client) inDir(ctx context.Context, name string, t wire.Type, m wire.Msg) error {
	names := Split(name)
	if len(names) == 0 {
		return errRoot
	}
	last := len(names) - 1
	return c.with(ctx, strings.Join(names[:last], "/"), func(fid uint32) error {
		m.Fid, m.Name = fid, names[last]
		return c.conn.call(ctx, t, &m, nil, nil)
	})
}
