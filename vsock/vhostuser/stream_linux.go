package vhostuser

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// state is how far a stream is.
type state uint8

const (
	// handshaking: the host's process has connected and not said to what.
	handshaking state = iota
	// wanted: the guest is to be asked for a connection.
	wanted
	// asked: the guest has been asked.
	asked
	// open: bytes flow. Each direction can have ended.
	open
	// closing: both directions have ended, the host's socket is closed, and
	// the guest is to confirm.
	closing
	// draining: the guest is done with the stream and has forgotten it; the
	// host has yet to take what was kept for it.
	draining
	// gone: closed and in no list.
	gone
)

// The control packets a stream can have to send, in this order.
const (
	wantRequest = 1 << iota
	wantResponse
	wantCredit
	wantCreditRequest
	wantShutdown
)

// stream is one connection, from the moment the host's process has connected
// or the guest has asked.
//
// In states wanted to closing it is in Device.streams; in asked to closing, in
// the table. In states closing and gone it has no host socket.
type stream struct {
	dev   *Device
	key   key
	state state
	fd    int
	h     handle
	slot  int32 // in the table, -1 for none
	links [kinds]links
	due   time.Time // of the timer, if in a list of timers

	want uint8  // control packets
	shut uint32 // flags of the shutdown packet sent or wanted

	// To the guest.
	send    sendCredit
	try     int  // bytes to try to read next
	asked   bool // the guest was asked for its room since it last had any
	canRead bool // the host's socket may have bytes, or an end
	hup     bool // the host's process has closed its socket
	ended   bool // the host's bytes have all been read

	// To the host.
	recv      recvCredit
	kept      fifo
	floorTurn int64  // in which many bytes last came, see floor
	guestShut uint32 // flags of the guest's shutdown packets
	wrShut    bool   // the host was told of the end
	deaf      bool   // the host takes no more bytes
}

// ready is called when something has happened to the host's socket.
func (s *stream) ready(ev uint32) {
	s.canRead = s.canRead || ev&(unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0
	s.hup = s.hup || ev&(unix.EPOLLHUP|unix.EPOLLERR) != 0
	switch s.state {
	case handshaking:
		s.handshake()
	case wanted, asked:
		if s.hup {
			s.abandon()
		}
	case open, draining:
		if s.kept.len > 0 {
			s.flush()
		}
		if s.state == open {
			if s.hup && s.readDone() {
				s.setDeaf()
				s.advance()
			}
			s.schedule()
		}
		if s.state == draining && s.kept.len == 0 {
			s.free()
		}
	}
}

// readDone reports whether no more bytes of the host go to the guest.
func (s *stream) readDone() bool { return s.ended || s.guestShut&shutReceive != 0 }

// schedule lets the stream's bytes take their turn, if it can have any and
// the guest has room. A guest that has none for a while is asked once: it may be one
// that does not tell of its room by itself.
func (s *stream) schedule() {
	if s.state != open || !s.canRead || s.readDone() {
		return
	}
	switch {
	case s.send.room() > 0:
		s.asked = false
		s.leave(kindTimer)
		s.dev.data.push(s)
	case !s.asked && s.links[kindTimer].in == nil:
		s.dev.starved.arm(s, s.dev.now)
	}
}

// control puts packets on the list of those to send.
func (s *stream) control(want uint8) {
	s.want |= want
	s.dev.control.push(s)
}

// advance is called when a direction may have ended, and does what follows.
func (s *stream) advance() {
	if s.state != open {
		return
	}
	if s.guestShut == shutBoth {
		// The guest's socket is closed: it waits for our confirmation.
		s.reset("closed by the guest")
		return
	}
	if s.guestShut&shutSend != 0 && s.kept.len == 0 && !s.deaf && !s.wrShut {
		s.wrShut = true
		_ = unix.Shutdown(s.fd, unix.SHUT_WR)
	}
	flags := uint32(0)
	if s.ended {
		flags |= shutSend
	}
	if s.deaf {
		flags |= shutReceive
	}
	if s.readDone() && (s.deaf || s.wrShut) {
		flags = shutBoth
	}
	if flags&^s.shut != 0 {
		s.shut |= flags
		s.control(wantShutdown)
	}
	if flags == shutBoth {
		s.closeHost()
		s.state = closing
		s.leave(kindData)
	}
}

// setDeaf is for when the host's process does not take bytes any more.
func (s *stream) setDeaf() {
	s.deaf = true
	s.recv.freed += uint32(s.kept.len)
	s.dev.buffered -= s.kept.len
	s.kept.clear(s.dev.arena)
}

// flush writes what is kept for the host.
func (s *stream) flush() {
	d := s.dev
	for s.kept.len > 0 {
		d.iov = s.kept.iovecs(d.arena, d.iov[:0])
		n, err := writev(s.fd, d.iov)
		if err != nil {
			if !errors.Is(err, unix.EAGAIN) {
				s.setDeaf()
			}
			break
		}
		s.kept.skip(d.arena, n)
		s.recv.freed += uint32(n)
		d.buffered -= n
	}
	if s.state == open {
		s.tellCredit()
		s.advance()
	}
}

// tellCredit lets the guest know of its room when it is time to.
func (s *stream) tellCredit() {
	d, c := s.dev, &s.recv
	fair := d.fairCredit()
	switch {
	case int(c.alloc) < fair && s.kept.len == 0 && c.got-c.grown >= c.alloc:
		// A stream that is used and whose host keeps up may have more under
		// way, as far as there is memory to keep it if the host stops.
		more := min(c.alloc, uint32(fair)-c.alloc, uint32(d.spare()))
		c.grown = c.got
		if more >= minStreamBuffer/4 {
			c.alloc += more
			d.granted += int(more)
			s.control(wantCredit)
		}
	case int(c.alloc) > fair:
		// There are more streams now, and each gets less.
		d.granted -= int(c.shrink(uint32(fair)))
	}
	if c.due() && s.guestShut&shutSend == 0 && !d.floor.holds(s, d.now) {
		s.control(wantCredit)
	}
}

// openStream counts a stream in and gives it credit. It reports false if there
// are as many as there may be.
func (d *Device) openStream(s *stream) bool {
	if d.count >= d.capacity() {
		d.warnFull()
		return false
	}
	d.count++
	d.granted += minStreamBuffer
	s.recv.alloc = minStreamBuffer
	s.try = firstTry
	d.streams[s.key] = s
	return true
}

// capacity is how many streams there may be: each must have its least credit.
func (d *Device) capacity() int {
	return min(d.cfg.MaxStreams, d.cfg.MaxBuffered/minStreamBuffer)
}

// spare is the memory for credit above the least that is not given out.
func (d *Device) spare() int {
	pool := d.cfg.MaxBuffered - d.capacity()*minStreamBuffer
	return pool - (d.granted - d.count*minStreamBuffer)
}

// fairCredit is what a stream may have when all are treated alike.
func (d *Device) fairCredit() int {
	pool := d.cfg.MaxBuffered - d.capacity()*minStreamBuffer
	return min(d.cfg.StreamBuffer, minStreamBuffer+pool/max(d.count, 1))
}

// warnFull says that streams are refused, now and then.
func (d *Device) warnFull() {
	d.stats.Refused++
	if d.now.Sub(d.warned) > time.Minute {
		d.warned = d.now
		d.log.Warn("streams refused: there are as many as there may be",
			"streams", d.count, "max_streams", d.cfg.MaxStreams, "max_buffered", d.cfg.MaxBuffered)
	}
}

// record enters the stream into the table, before the guest hears of it.
func (s *stream) record() bool {
	slot, ok := s.dev.table.put(s.key)
	s.slot = slot
	return ok
}

// abandon is for when the host's process goes away before the guest has
// answered.
func (s *stream) abandon() {
	if s.state == wanted {
		s.free()
		return
	}
	s.reset("the host hung up")
}

// reset ends the stream and tells the guest; bytes kept for the host are still
// delivered.
func (s *stream) reset(why string) {
	s.dev.pushReset(resetPacket{key: s.key, typ: typeStream, slot: s.slot})
	s.slot = -1
	s.finish(why)
}

// finish ends a stream of which the guest knows nothing any more.
func (s *stream) finish(why string) {
	d := s.dev
	d.log.Debug("stream ends", "port", s.key.guest, "hostport", s.key.host, "why", why,
		"to_guest", s.send.sent, "to_host", s.recv.got)
	if s.kept.len == 0 || s.fd < 0 {
		s.free()
		return
	}
	s.unlist()
	s.state = draining
}

// unlist makes the guest's side forget the stream.
func (s *stream) unlist() {
	for kind := range kinds {
		s.leave(kind)
	}
	s.dev.floor.forget(s)
	s.want = 0
	if s.dev.streams[s.key] == s {
		delete(s.dev.streams, s.key)
	}
	s.dev.table.clear(s.slot)
	s.slot = -1
}

// closeHost closes the host's socket. The process at its other end reads what
// was written, and then end of file; or, if it wrote bytes that were not read,
// a reset.
func (s *stream) closeHost() {
	if s.fd < 0 {
		return
	}
	s.dev.buffered -= s.kept.len
	s.kept.clear(s.dev.arena)
	s.dev.poll.remove(s.fd, &s.h)
	_ = unix.Close(s.fd)
	s.fd = -1
	s.dev.resumeAccept()
}

// free ends the stream.
func (s *stream) free() {
	d := s.dev
	if s.state == gone {
		return
	}
	s.unlist()
	s.closeHost()
	if s.state == handshaking {
		d.handshakes--
	} else {
		d.count--
		d.granted -= int(s.recv.alloc)
	}
	delete(d.all, s)
	s.state = gone
	d.resumeAccept()
}

// resetPacket is a reset for a connection that is no stream any more or never
// was one.
type resetPacket struct {
	key  key
	typ  uint16
	slot int32 // in the table, freed when the guest has the packet
}

// maxResets is how many resets may wait for room on the ring before the
// guest's packets, which cause them, have to wait too.
const maxResets = 1024

func (d *Device) pushReset(r resetPacket) { d.resets = append(d.resets, r) }

// dropAll ends all streams, without the guest, which has forgotten them. It
// returns how many there were.
func (d *Device) dropAll(why string) int {
	n := 0
	for s := range d.all {
		switch s.state {
		case asked, open, closing:
			n++
			s.finish(why)
		case draining:
			// Its bytes are the host's by right, and it ends by itself.
		case handshaking, wanted:
			// The guest has not heard of it; the next driver will.
		}
	}
	for _, r := range d.resets {
		d.table.clear(r.slot)
	}
	d.resets = d.resets[:0]
	return n
}

var _ source = (*stream)(nil)
