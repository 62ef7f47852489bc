package vhostuser

import (
	"errors"

	"golang.org/x/sys/unix"

	"vmfs/vsock"
	"vmfs/vsock/vhostuser/internal/virtq"
)

// txBurst is how many packets of the guest are taken before others get their
// turn.
const txBurst = 64

// fromGuest takes packets off the tx ring, and reports whether there are more.
func (d *Device) fromGuest() (more bool) {
	q := d.rings[ringTx].q
	q.Mute()
	for range txBurst {
		if len(d.resets) >= maxResets {
			return true // when there are fewer
		}
		n, err := q.Avail()
		if err == nil && n == 0 {
			if more, err = q.Ask(); err == nil && !more {
				return false
			}
		}
		var c virtq.Chain
		if err == nil {
			c, err = q.Chain(0, virtq.Read, d.segs[:0])
		}
		if err != nil {
			d.fault(ringTx, err)
			return false
		}
		d.packet(c)
		q.Use(c, 0)
	}
	return true
}

// packet handles one packet of the guest.
func (d *Device) packet(c virtq.Chain) {
	var buf [headerSize]byte
	if virtq.CopyOut(buf[:], c.Segs) < headerSize {
		d.log.Debug("packet of the guest without a whole header", "bytes", c.Len)
		return
	}
	var h header
	h.decode(&buf)
	if h.srcCID != uint64(d.cfg.CID) || h.dstCID != hostCID {
		// Not for us, and nobody to answer. A guest whose CID has changed
		// under it has no streams left.
		d.log.Debug("packet of the guest with other addresses", "src", h.srcCID, "dst", h.dstCID)
		return
	}
	k := key{host: h.dstPort, guest: h.srcPort}
	if h.typ != typeStream {
		d.reject(k, h)
		return
	}
	s := d.streams[k]
	if s == nil {
		if h.op == opRequest {
			d.guestConnects(k, h)
		} else {
			d.reject(k, h)
		}
		return
	}
	s.send.alloc, s.send.freed = h.bufAlloc, h.fwdCnt

	switch s.state {
	case asked:
		switch h.op {
		case opResponse:
			s.accepted()
		case opReset:
			d.stats.Refused++
			s.finish("refused by the guest")
		default:
			s.breach("answered a request to connect with", h.op)
		}
	case open:
		s.fromGuest(h, c)
	case closing:
		switch h.op {
		case opReset:
			s.finish("closed")
		case opShutdown:
			if s.guestShut |= h.flags & shutBoth; s.guestShut == shutBoth {
				s.reset("closed")
			}
		case opRW:
			// Under way when the stream was closed.
		case opCreditUpdate, opCreditRequest:
		default:
			s.breach("sent for a stream being closed", h.op)
		}
	default: // wanted
		s.breach("sent for a stream it does not know", h.op)
	}
}

// fromGuest handles a packet for an open stream.
func (s *stream) fromGuest(h header, c virtq.Chain) {
	switch h.op {
	case opRW:
		switch {
		case int64(h.len) > int64(c.Len-headerSize):
			s.dev.log.Debug("packet shorter than it says", "says", h.len, "is", c.Len-headerSize)
			s.breach("sent a short packet of", h.op)
		case s.guestShut&shutSend != 0:
			s.breach("sent after its end of stream", h.op)
		case !s.recv.take(h.len):
			s.breach("sent more than its credit allows", h.op)
		default:
			s.toHost(c.Segs, int(h.len))
		}
	case opCreditUpdate:
	case opCreditRequest:
		s.control(wantCredit)
	case opShutdown:
		s.guestShut |= h.flags & shutBoth
		if s.guestShut&shutReceive != 0 && s.guestShut != shutBoth {
			// The host's writer is to learn it too.
			_ = unix.Shutdown(s.fd, unix.SHUT_RD)
			s.leave(kindData)
		}
		s.advance()
	case opReset:
		s.finish("reset by the guest")
		return
	default:
		s.breach("sent for an open stream", h.op)
		return
	}
	s.schedule()
}

// toHost passes n bytes on, those behind the header in segs.
func (s *stream) toHost(segs [][]byte, n int) {
	d := s.dev
	d.stats.ToHost += uint64(n)
	d.tellRoom(d.floor.take(s, n, d.now))
	d.resident.count(n, d.mem)
	done := 0
	for !s.deaf && s.kept.len == 0 && done < n {
		var iov []unix.Iovec
		iov, _ = appendIovecs(d.iov[:0], segs, headerSize+done, n-done)
		m, err := writev(s.fd, iov)
		if err != nil {
			if !errors.Is(err, unix.EAGAIN) {
				s.setDeaf()
				s.advance()
			}
			break
		}
		done += m
		s.recv.freed += uint32(m)
	}
	if done < n && !s.deaf {
		if !s.keep(segs, headerSize+done, n-done) {
			return
		}
		done = n
	}
	s.recv.freed += uint32(n - done) // of a host that takes no more
	if s.state == open {
		s.tellCredit()
	}
}

// keep copies n bytes of segs from offset off, for when the host takes them.
func (s *stream) keep(segs [][]byte, off, n int) bool {
	for _, p := range segs {
		if off >= len(p) {
			off -= len(p)
			continue
		}
		p = p[off:]
		off = 0
		p = p[:min(len(p), n)]
		if err := s.kept.write(s.dev.arena, p); err != nil {
			// Credits do not add up to more than the arena.
			s.dev.log.Error("stream reset", "port", s.key.guest, "err", err)
			s.setDeaf()
			s.reset("no memory")
			return false
		}
		s.dev.buffered += len(p)
		if n -= len(p); n == 0 {
			break
		}
	}
	return true
}

// breach ends a stream of which the guest has broken the rules.
func (s *stream) breach(what string, o op) {
	s.dev.log.Info("stream reset: the guest broke the rules", "port", s.key.guest, "hostport", s.key.host,
		"what", what, "op", uint16(o))
	s.reset("breach")
}

// reject answers a packet that belongs to no stream.
func (d *Device) reject(k key, h header) {
	if h.op != opReset {
		d.pushReset(resetPacket{key: k, typ: h.typ, slot: -1})
	}
}

// guestConnects handles the guest's request to connect to a port of the host.
func (d *Device) guestConnects(k key, h header) {
	s := &stream{dev: d, key: k, state: open, fd: -1, slot: -1}
	s.send.alloc, s.send.freed = h.bufAlloc, h.fwdCnt
	if !d.connectHost(s) {
		d.reject(k, h)
		return
	}
	d.stats.Opened++
	d.log.Debug("stream opened by the guest", "port", k.guest, "hostport", k.host)
	s.control(wantResponse)
	s.schedule()
}

// connectHost connects s to whoever listens for the guest. A Unix socket's
// connect does not wait: a listener with a full queue refuses.
func (d *Device) connectHost(s *stream) bool {
	if vsock.CheckPort(int(s.key.host)) != nil || s.key.guest == 0 {
		return false
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		d.log.Warn("no socket for a connection of the guest", "hostport", s.key.host, "err", err)
		return false
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: vsock.ListenPath(d.cfg.HostSocket, int(s.key.host))}); err != nil {
		d.log.Debug("connection of the guest refused", "hostport", s.key.host, "err", err)
		_ = unix.Close(fd)
		return false
	}
	if !d.openStream(s) {
		_ = unix.Close(fd)
		return false
	}
	s.fd = fd
	d.all[s] = struct{}{}
	if !s.record() || !d.watch(s) {
		s.free()
		return false
	}
	return true
}

// accepted is for when the guest has accepted the host's connection.
func (s *stream) accepted() {
	s.leave(kindTimer)
	s.state = open
	s.dev.stats.Opened++
	if !s.say(okLine(s.key.host)) {
		s.reset("the host hung up")
		return
	}
	s.schedule()
}
