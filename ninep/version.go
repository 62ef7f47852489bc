package ninep

import (
	"strconv"
	"strings"

	"github.com/hugelgupf/p9/linux"
)

// maxGoogle is the highest N of 9P2000.L.Google.N that p9's client knows.
const maxGoogle = 7

// negotiate finds the dialect for a client's version string, as version(5)
// tells: what follows a period may be stripped, an earlier version than the
// client's may be answered, and "unknown" is for all else.
func negotiate(version string) (d dialect, answer string, ok bool) {
	switch version {
	case "9P2000":
		return dialect9P, version, true
	case "9P2000.u":
		return dialectU, version, true
	case "9P2000.L":
		return dialectL, version, true
	}
	if n, ok := strings.CutPrefix(version, "9P2000.L.Google."); ok {
		if n, err := strconv.ParseUint(n, 10, 32); err == nil && n > 0 {
			d, n := dialectL, min(n, maxGoogle)
			if n >= 2 {
				d |= dialectG2
			}
			if n >= 3 {
				d |= dialectG3
			}
			return d, "9P2000.L.Google." + strconv.FormatUint(n, 10), true
		}
	}
	if i := strings.LastIndexByte(version, '.'); i >= 0 {
		return negotiate(version[:i])
	}
	// A later protocol than we know: its number is a year's.
	if n, ok := strings.CutPrefix(version, "9P"); ok && len(n) >= 4 {
		if n, err := strconv.ParseUint(n, 10, 32); err == nil && n > 2000 {
			return dialect9P, "9P2000", true
		}
	}
	return 0, "unknown", false
}

// version answers a Tversion. It ends the session there was, and begins
// another if the client's version is one we know.
func (c *conn) version(r *request, d *dec) {
	msize, name := d.u32(), string(d.str())
	old := c.sess.Load()
	r.s = old
	if !d.ok() {
		c.complain("malformed message", "type", "Tversion")
		c.replyError(r, fault(linux.EBADMSG, "malformed Tversion"))
		return
	}
	if old != nil {
		c.hand() // what was answered before stays answered
		old.end(errReset, false)
		c.sess.Store(nil)
		r.s = nil
		c.setReadDeadline(c.srv.limits.Handshake)
	}
	dia, answer, ok := negotiate(name)
	msize = min(msize, c.srv.limits.Msize)
	if ok && msize < minMsize {
		c.complain("message size too small", "msize", msize)
		r.s = &session{dialect: dia, msize: minMsize} // for the form of the error alone
		c.replyError(r, errMsize)
		r.s = nil
		return
	}
	if ok {
		s := newSession(c, dia, msize)
		c.sess.Store(s)
		if c.isDraining() {
			s.cancel(errStopping)
		}
		c.setReadDeadline(0)
		c.log.Debug("session", "version", answer, "msize", msize)
	} else {
		c.complain("unknown version", "version", name)
	}
	b := c.room(64)
	e := enc{b.b}
	start := e.begin(msgRversion, r.tag)
	e.u32(msize)
	e.str(answer)
	e.end(start)
	b.b = e.b
}
