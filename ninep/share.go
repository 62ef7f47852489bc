package ninep

import (
	"sync/atomic"
	"time"

	"github.com/hugelgupf/p9/p9"
)

// userShare is what one user has of the server, by all its connections.
type userShare struct {
	all        *usage
	limits     *Limits
	privileged bool // see Privileger

	conns int             // guarded by Server.mu
	queue []chan struct{} // connections that wait for their turn; guarded by turns.mu
	rest  time.Duration   // until when they do anyway, 0 for not at all; guarded by turns.mu
	fids  atomic.Int64    // see Limits.UserFids
	held  atomic.Int64    // see Limits.UserHeld
	opens atomic.Int64    // of held: by open files
	files atomic.Int64    // see Limits.UserDescriptors
}

// usage is what all users have of the server, but for those who are privileged.
type usage struct {
	held  atomic.Int64 // see Limits.AllHeld
	files atomic.Int64 // see Limits.Descriptors; it counts those of the privileged too
}

const (
	// requestCost is what a request that is blocked takes beside its data: a
	// goroutine with its stack, and the request.
	requestCost = 8 << 10
	// connFiles is how many descriptors a connection takes: its own, and that of a
	// file that is opened for a read of it.
	connFiles = 2
	// smallHeld is what of a connection's messages does not count as held: there is
	// as much of it as there may be connections.
	smallHeld = 64 << 10
)

// hold counts bytes that are held until letGo, if there is room for them.
func (u *userShare) hold(n int) bool {
	u.add(n)
	if u.over() {
		u.letGo(n)
		return false
	}
	return true
}

// add is hold for what is there in any case, and leaves others less.
func (u *userShare) add(n int) {
	if n == 0 {
		return
	}
	u.held.Add(int64(n))
	if !u.privileged {
		u.all.held.Add(int64(n))
	}
}

func (u *userShare) letGo(n int) { u.add(-n) }

// over reports whether more is held than may be.
func (u *userShare) over() bool {
	return u.held.Load() > int64(u.limits.UserHeld) || !u.privileged && u.all.held.Load() > int64(u.limits.AllHeld)
}

// left is for how many bytes there is room.
func (u *userShare) left() int {
	left := int64(u.limits.UserHeld) - u.held.Load()
	if !u.privileged {
		left = min(left, int64(u.limits.AllHeld)-u.all.held.Load())
	}
	return int(left)
}

// openFiles counts descriptors, if there is room for them. What is reserved is there for
// the privileged alone.
func (u *userShare) openFiles(n int) bool {
	most := u.limits.Descriptors
	if !u.privileged {
		most -= u.limits.Descriptors / reservedDescriptors
	}
	u.addFiles(n)
	if n > 0 && (u.files.Load() > int64(u.limits.UserDescriptors) || u.all.files.Load() > int64(most)) {
		u.addFiles(-n)
		return false
	}
	return true
}

func (u *userShare) addFiles(n int) {
	u.files.Add(int64(n))
	u.all.files.Add(int64(n))
}

// openCost is what an open file takes.
type openCost struct{ bytes, files int }

// charge counts what opening a fid's file will take, if its user may have that: half of
// what the user may hold is for requests.
func (s *session) charge(f *fid, flags p9.OpenFlags) error {
	c, ok := f.node.file.(Coster)
	if !ok {
		return nil
	}
	u := s.c.share
	bytes, files := c.OpenCost(flags)
	if u.opens.Add(int64(bytes)) > int64(u.limits.UserHeld/2) || !u.hold(bytes) {
		u.opens.Add(int64(-bytes))
		return errOpenFiles
	}
	if !u.openFiles(files) {
		u.opens.Add(int64(-bytes))
		u.letGo(bytes)
		return errOpenFiles
	}
	f.cost = openCost{bytes, files}
	return nil
}

// discharge gives back what charge counted.
func (s *session) discharge(f *fid) {
	u := s.c.share
	u.opens.Add(int64(-f.cost.bytes))
	u.letGo(f.cost.bytes)
	u.addFiles(-f.cost.files)
	f.cost = openCost{}
}
