package ninep

import (
	"context"

	"github.com/hugelgupf/p9/p9"
)

// A p9.File implements any of the interfaces below for the operations that can
// block. The server then calls the context method in place of the plain one,
// in a goroutine of its own. The context ends when the client flushes the
// request, hangs up, or starts a new session, and when the server shuts down;
// the method must then return at once, with the context's error if nothing
// else. An error met for such a reason reaches the client as EINTR.
//
// They mention nothing of this package, so that a tree need not import it.
type (
	// OpenerContext opens a file whose opening can block.
	OpenerContext interface {
		OpenContext(ctx context.Context, mode p9.OpenFlags) (p9.QID, uint32, error)
	}

	// ReaderContext reads a file that may have nothing to read yet.
	//
	// Reads of one fid come one at a time, in the order the client sent them.
	// A reader that gets less than a record keeps the rest of it for the next
	// read. In a session of exactly 9P2000.L or of 9P2000.u, which is Linux's v9fs, the
	// server also ends a read(2) early after a short reply, since the kernel
	// would otherwise go on until its buffer is full.
	ReaderContext interface {
		ReadContext(ctx context.Context, p []byte, off int64) (int, error)
	}

	// WriterContext writes a file that may not take the bytes yet, or whose
	// writes are commands that take their time.
	//
	// Writes of one fid come one at a time, in the order the client sent them.
	// If the error is not nil it is what the client sees, whatever the count.
	// The slice is the server's again when the method returns.
	WriterContext interface {
		WriteContext(ctx context.Context, p []byte, off int64) (int, error)
	}

	// PartWriterContext is a WriterContext that may take bytes rather than
	// records. Where many requests are blocked the server gives it a part of
	// what the client sent, and the client sends the rest once that is taken.
	PartWriterContext interface {
		WriterContext
		WritesInParts() bool
	}

	// CloserContext closes a file that was opened, in place of Close, where
	// the clunk may have to deliver what is pending. Its error is the answer
	// to the clunk; the fid is gone in any case. The context may have a short
	// deadline. A file that was never opened is closed by Close.
	CloserContext interface {
		CloseContext(ctx context.Context) error
	}

	// AbandonerContext is a CloserContext that is told a clunk from the end of a
	// session: AbandonContext is called in place of CloseContext for a file that
	// was still open when its client hung up or began a new session, or when the
	// server stopped. The context has a short deadline, and nobody sees the error.
	AbandonerContext interface {
		CloserContext
		AbandonContext(ctx context.Context) error
	}

	// SyncerContext is FSync for a file where that can block.
	SyncerContext interface {
		FSyncContext(ctx context.Context) error
	}

	// CreatorContext is Create where that can block.
	CreatorContext interface {
		CreateContext(ctx context.Context, name string, flags p9.OpenFlags, permissions p9.FileMode, uid p9.UID, gid p9.GID) (p9.File, p9.QID, uint32, error)
	}

	// MkdirerContext is Mkdir where that can block.
	MkdirerContext interface {
		MkdirContext(ctx context.Context, name string, permissions p9.FileMode, uid p9.UID, gid p9.GID) (p9.QID, error)
	}

	// UnlinkerContext is UnlinkAt where that can block.
	UnlinkerContext interface {
		UnlinkAtContext(ctx context.Context, name string, flags uint32) error
	}

	// RenamerContext is RenameAt where that can block.
	RenamerContext interface {
		RenameAtContext(ctx context.Context, oldName string, newDir p9.File, newName string) error
	}

	// AttrSetterContext is SetAttr where that can block.
	AttrSetterContext interface {
		SetAttrContext(ctx context.Context, valid p9.SetAttrMask, attr p9.SetAttr) error
	}

	// LockerContext is Lock where that can block.
	LockerContext interface {
		LockContext(ctx context.Context, pid int, locktype p9.LockType, flags p9.LockFlags, start, length uint64, client string) (p9.LockStatus, error)
	}
)

// Coster is a file that has the server hold something while it is open: how many bytes
// at most, beside what a fid takes, and how many descriptors. Its user is charged with
// them before it is opened, and until it is closed.
type Coster interface {
	OpenCost(mode p9.OpenFlags) (bytes, descriptors int)
}

// Keeper is a file whose plain reads leave it with something for the next ones: with how
// many bytes, for which its user is charged until the file is closed. Where there is no
// room for them it is told to forget it.
type Keeper interface {
	Kept() int
	Forget()
}

// Privileger is a p9.Attacher that knows whose connections may use what the limits
// reserve: those who run the server. Without it nobody may.
type Privileger interface {
	Privileged(caller Caller) bool
}

// OneWalker is a directory that can walk one name without making a slice for
// its QID. The server prefers it to Walk where it is there. The name may be
// kept. Like Walk it must not block.
type OneWalker interface {
	WalkOne(name string) (p9.QID, p9.File, error)
}

// RemoveChecker is a directory that can tell beforehand that a name in it will
// not be removed. 9P2000's ORCLOSE asks when the file is opened.
type RemoveChecker interface {
	CanRemove(name string) error
}

// LockGetter answers Tgetlock, which p9.File has no method for: it reports the
// lock that stands in the way of the one described, or Unlock for none.
type LockGetter interface {
	GetLock(pid int, locktype p9.LockType, start, length uint64, client string) (p9.LockType, uint64, uint64, int, string, error)
}

// UserAttacher is a p9.Attacher whose tree depends on who attaches. The server
// then calls AttachUser for each Tattach, in place of Attach.
//
// The names are what the client claims: uname may be empty, and nuname is
// NoUser where the client sent none. What the kernel or the operator knows of
// the client is in caller. The file returned is the root for aname.
type UserAttacher interface {
	AttachUser(ctx context.Context, caller Caller, uname string, nuname uint32, aname string) (p9.File, error)
}

// NoUser is the numeric user of a Tattach that names none.
const NoUser = ^uint32(0)

// Caller says who is at the other end of a connection. It is an alias of an
// unnamed interface, so that a tree may declare the same one and need not
// import this package.
type Caller = interface {
	// Network is "unix", "tcp" or "vsock", or what the listener calls it.
	Network() string

	// Listener is the address that accepted the connection, in dial form.
	Listener() string

	// Remote is the peer's address, for messages; empty on a Unix socket.
	Remote() string

	// FixedUser is the user that the operator named for the listener, if any.
	FixedUser() (name string, ok bool)

	// PeerCred is what the kernel says of the process at the other end of a
	// Unix socket: the ids it had when it connected. The groups hold gid and
	// the supplementary groups, where the kernel tells them.
	PeerCred() (uid, gid uint32, groups []uint32, pid int, ok bool)
}

// UserNames gives names to numeric users and groups, and back, for the
// dialects that speak of users by name (9P2000 and 9P2000.u). A name that is
// not known is written as a number.
type UserNames interface {
	UserName(uid uint32) (string, bool)
	GroupName(gid uint32) (string, bool)
	UserID(name string) (uint32, bool)
	GroupID(name string) (uint32, bool)
}
