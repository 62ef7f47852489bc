package vhostuser

import (
	"errors"

	"golang.org/x/sys/unix"

	"vmfs/vsock/vhostuser/internal/virtq"
)

const (
	// rxChains is how many of the guest's buffers one turn of a stream fills
	// at most. Linux 6.12 offers them with 3.7 KiB, so this is 118 KiB.
	rxChains = 32
	// firstTry is how many bytes a stream tries to read in its first turn.
	// The number follows what it finds, so that a stream of small messages
	// does not walk many buffers to fill one.
	firstTry = 4 << 10
	maxTry   = rxChains * maxPayload
	// rxBurst is how many turns there are before the guest's packets get
	// theirs.
	rxBurst = 64
)

// toGuest fills the guest's buffers: with control packets first, which are few,
// and then with the streams' bytes in turn.
func (d *Device) toGuest() {
	for range rxBurst {
		if d.rxDry || !d.wantsRx() || !d.up {
			return
		}
		q := d.rings[ringRx].q
		n, err := q.Avail()
		if err == nil && n == 0 {
			q.Mute()
			var more bool
			if more, err = q.Ask(); err == nil && !more {
				d.rxDry = true
				return
			}
			if err == nil {
				n, err = q.Avail()
			}
		}
		if err == nil {
			err = d.oneRx(q, n)
		}
		if err != nil {
			d.fault(ringRx, err)
			return
		}
	}
}

// wantsRx reports whether there is anything for the guest.
func (d *Device) wantsRx() bool {
	return len(d.resets) > 0 || !d.control.empty() || !d.data.empty()
}

// oneRx sends one kind of thing, with n buffers at hand.
func (d *Device) oneRx(q *virtq.Queue, n int) error {
	switch {
	case len(d.resets) > 0:
		sent := 0
		for ; sent < min(n, len(d.resets)); sent++ {
			r := d.resets[sent]
			h := header{typ: r.typ, op: opReset}
			if err := d.sendHeader(q, r.key, h); err != nil {
				d.resets = d.resets[sent:]
				return err
			}
			d.table.clear(r.slot)
		}
		d.resets = append(d.resets[:0], d.resets[sent:]...)
	case !d.control.empty():
		for ; n > 0 && !d.control.empty(); n-- {
			if err := d.sendControl(q, d.control.head); err != nil {
				return err
			}
		}
	default:
		s := d.data.pop()
		again, err := d.sendData(q, s, n)
		if err != nil {
			return err
		}
		if d.data.empty() || again {
			// The guest can start on these while we look for more.
			d.signal(ringRx)
		}
		s.schedule()
	}
	return nil
}

// sendControl sends the first control packet of those that s, the first in the
// list, has to send.
func (d *Device) sendControl(q *virtq.Queue, s *stream) error {
	h := header{typ: typeStream}
	bit := s.want & -s.want
	switch bit {
	case wantRequest:
		if !s.record() {
			d.warnFull()
			s.free()
			return nil
		}
		h.op = opRequest
	case wantResponse:
		h.op = opResponse
	case wantCredit:
		h.op = opCreditUpdate
	case wantCreditRequest:
		h.op = opCreditRequest
	case wantShutdown:
		h.op, h.flags = opShutdown, s.shut
	default:
		s.leave(kindControl)
		return nil
	}
	s.stamp(&h)
	if err := d.sendHeader(q, s.key, h); err != nil {
		return err
	}
	s.want &^= bit
	if bit == wantRequest {
		s.state = asked
		d.requests.arm(s, d.now)
	}
	if s.want == 0 {
		s.leave(kindControl)
	}
	if s.state == closing && s.want&wantShutdown == 0 {
		d.lingers.arm(s, d.now)
	}
	return nil
}

// stamp puts the stream's room into a packet.
func (s *stream) stamp(h *header) {
	h.bufAlloc, h.fwdCnt = s.recv.tell()
}

// sendHeader sends a packet without bytes.
func (d *Device) sendHeader(q *virtq.Queue, k key, h header) error {
	c, err := d.rxChain(q, 0, d.segs[:0])
	if err != nil {
		return err
	}
	d.putHeader(c, k, h)
	q.Use(c, headerSize)
	return nil
}

// rxChain is the i-th buffer, which must have room for a header and a byte.
func (d *Device) rxChain(q *virtq.Queue, i int, segs [][]byte) (virtq.Chain, error) {
	c, err := q.Chain(i, virtq.Write, segs)
	if err == nil && c.Len <= headerSize {
		err = virtq.ErrGuest
	}
	return c, err
}

func (d *Device) putHeader(c virtq.Chain, k key, h header) {
	h.srcCID, h.dstCID = hostCID, uint64(d.cfg.CID)
	h.srcPort, h.dstPort = k.host, k.guest
	var buf [headerSize]byte
	h.encode(&buf)
	virtq.CopyIn(c.Segs, buf[:])
}

// sendData gives s its turn: it reads from the host's socket into as many of
// the n buffers as it may fill. It reports whether any were.
func (d *Device) sendData(q *virtq.Queue, s *stream, n int) (sent bool, err error) {
	limit := min(int(s.send.room()), s.try)
	if limit == 0 {
		return false, nil // the guest has taken its credit back
	}
	segs, iov, total := d.segs[:0], d.iov[:0], 0
	chains := d.chains[:0]
	for i := 0; i < min(n, rxChains) && total < limit; i++ {
		c, err := d.rxChain(q, i, segs)
		if err != nil {
			return false, err
		}
		segs = append(segs, c.Segs...)
		chains = append(chains, c)
		var m int
		iov, m = appendIovecs(iov, c.Segs, headerSize, min(maxPayload, limit-total))
		total += m
		if len(iov) == maxIovecs {
			break
		}
	}
	if total == 0 {
		return false, nil // or reading nothing would look like the end
	}
	got, err := readv(s.fd, iov)
	switch {
	case errors.Is(err, unix.EAGAIN):
		s.canRead = false
		s.try = firstTry
		return false, nil
	case err != nil:
		// The host's process went without reading all that came for it.
		s.hup = true
		got = 0
	}
	if got == 0 {
		s.ended = true
		if s.hup {
			s.setDeaf()
		}
		s.advance()
		return false, nil
	}
	if got == total {
		s.try = min(2*s.try, maxTry)
	} else {
		s.try = max(firstTry, got)
	}
	for left, i := got, 0; left > 0; i++ {
		c := chains[i]
		m := min(left, c.Len-headerSize, maxPayload)
		h := header{typ: typeStream, op: opRW, len: uint32(m)}
		s.stamp(&h)
		d.putHeader(c, s.key, h)
		q.Use(c, uint32(headerSize+m))
		left -= m
	}
	s.send.sent += uint32(got)
	d.stats.ToGuest += uint64(got)
	d.resident.count(got, d.mem)
	return true, nil
}
