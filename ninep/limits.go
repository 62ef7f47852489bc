package ninep

import (
	"syscall"
	"time"
)

// Limits bound what clients can make the server hold. A zero field means the
// default beside it; there is no way to say "unlimited".
type Limits struct {
	// Msize is the largest message (default 1 MiB and a header). A client
	// gets what it asks for up to this.
	Msize uint32

	// Fids is how many fids a connection may hold (default 16384), and UserFids
	// how many all connections of a user, a few more or less (default 262144).
	// One more is refused with ENFILE.
	Fids, UserFids int

	// Requests is how many requests of a connection may be blocked at a time
	// (default 2048). One more is refused with ENOBUFS.
	Requests int

	// Held is how many bytes those may hold, of what they write and of room for
	// what they read, and fids of extended attributes and of directories that are
	// read in part (default 64 MiB). UserHeld is the same for all connections of
	// one user (default 256 MiB). The more there are the less a read gets at a
	// time, and a write to a PartWriterContext takes; anything else is refused with
	// ENOBUFS. Held should have 4 KiB for each of Requests.
	//
	// A user's share counts besides 8 KiB for each blocked request, messages that are
	// not complete and replies that are not taken (but for 64 KiB a connection), and
	// what open files hold (see Coster), up to half of it. AllHeld is for all users
	// together but the privileged (default 1 GiB).
	Held, UserHeld, AllHeld int

	// Conns is how many connections the server holds (default 4096), ListenerConns
	// how many of them by one listener (default three quarters of them) and UserConns
	// how many of one user (default 1024): one uid on a Unix socket; on a network one
	// host, where all of loopback and a /64 of IPv6 are one. One more is closed at once.
	//
	// A sixteenth of Conns is reserved for the privileged (see Privileger), whom
	// ListenerConns does not concern.
	Conns, ListenerConns, UserConns int

	// Idle is how long a connection may hold no fid and say nothing before it makes
	// room for others (default 1 min), and how long, where the listener or the server is
	// full, that of a user who has more than others of the listener may say nothing,
	// whatever it holds.
	Idle time.Duration

	// Descriptors is how many of the process's file descriptors clients may take
	// (default half of RLIMIT_NOFILE), of which an eighth is reserved for the privileged,
	// and UserDescriptors how many one user (default a quarter of it): two for a
	// connection, and what open files say (see Coster).
	Descriptors, UserDescriptors int

	// Handshake is how long a client may take to its first Tversion, and Frame
	// how long to send the rest of a message it has begun (default 30 s both).
	// Then it is hung up on.
	Handshake, Frame time.Duration

	// Write is how long a client may leave its replies unread when they no
	// longer fit its socket (default 30 s, up to twice that). Then it is hung
	// up on.
	Write time.Duration

	// Hangup is how long the files that a client left open may take to close
	// once it is gone (default 2 s). Then their contexts end.
	Hangup time.Duration
}

// One part in so many of Conns and Descriptors is for the privileged alone.
const (
	reservedConns       = 16
	reservedDescriptors = 8
)

// maxDescriptors is how many file descriptors this process may have, or as many as
// anybody will want.
func maxDescriptors() int {
	const enough = 1 << 20
	var r syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &r); err != nil || uint64(r.Cur) > enough {
		return enough
	}
	return int(r.Cur)
}

const (
	ioHeader     = 24 // what Linux keeps free of a message beside the data
	minMsize     = 256
	defaultMsize = 1<<20 + ioHeader
)

// withDefaults fills in what is not set.
func (l Limits) withDefaults() Limits {
	def(&l.Msize, defaultMsize)
	l.Msize = min(max(l.Msize, minMsize), 16<<20)
	def(&l.Fids, 16384)
	def(&l.UserFids, 1<<18)
	def(&l.Requests, 2048)
	def(&l.Held, 64<<20)
	def(&l.UserHeld, 256<<20)
	def(&l.AllHeld, 1<<30)
	def(&l.Conns, 4096)
	def(&l.ListenerConns, l.Conns-l.Conns/4)
	def(&l.Idle, time.Minute)
	def(&l.Descriptors, maxDescriptors()/2)
	def(&l.UserDescriptors, l.Descriptors/4)
	def(&l.UserConns, 1024)
	def(&l.Handshake, 30*time.Second)
	def(&l.Frame, 30*time.Second)
	def(&l.Write, 30*time.Second)
	def(&l.Hangup, 2*time.Second)
	return l
}

func def[T int | uint32 | time.Duration](p *T, v T) {
	if *p <= 0 {
		*p = v
	}
}
