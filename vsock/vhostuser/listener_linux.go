package vhostuser

import (
	"bytes"
	"encoding/json"
	"errors"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"vmfs/vsock"
)

const (
	// maxHandshakes is how many of the host's processes may be in the middle
	// of saying what they want.
	maxHandshakes = 64
	// maxCommand is the longest line they can say it in.
	maxCommand = 32
	// acceptPause is how long to wait for free descriptors, if no stream ends
	// before that.
	acceptPause = time.Second
)

// accept takes new connections of the host's processes until there are none,
// or there is no room for more: then resumeAccept goes on.
func (d *Device) accept() {
	d.now = time.Now() // it may have waited long: deadlines begin now
	for d.handshakes < maxHandshakes {
		fd, _, err := unix.Accept4(d.listenFD, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
		switch {
		case err == nil:
		case errors.Is(err, unix.EAGAIN):
			return
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.ECONNABORTED):
			continue
		default:
			d.log.Warn("cannot accept a connection", "err", err)
			d.acceptAt = d.now.Add(acceptPause)
			return
		}
		s := &stream{dev: d, fd: fd, slot: -1, state: handshaking}
		d.all[s] = struct{}{}
		d.handshakes++
		d.greets.arm(s, d.now)
		if !d.watch(s) {
			s.free()
		}
	}
	d.acceptAt = d.now.Add(acceptPause)
}

// resumeAccept is called when a descriptor has become free.
func (d *Device) resumeAccept() {
	if !d.acceptAt.IsZero() {
		d.acceptAt = d.now
	}
}

// watch has the poller wake s.
func (d *Device) watch(s *stream) bool {
	h, err := d.poll.add(s.fd, unix.EPOLLIN|unix.EPOLLOUT|unix.EPOLLRDHUP, s)
	if err != nil {
		d.log.Warn("cannot watch a connection", "err", err)
		return false
	}
	s.h = h
	return true
}

// handshake reads the line that says what the host's process wants. Bytes
// behind it are the stream's and stay in the socket.
func (s *stream) handshake() {
	var buf [maxCommand]byte
	n, _, err := unix.Recvfrom(s.fd, buf[:], unix.MSG_PEEK)
	switch {
	case errors.Is(err, unix.EAGAIN):
		if s.hup {
			s.free()
		}
		return
	case errors.Is(err, unix.EINTR):
		s.handshake()
		return
	case err != nil || n == 0:
		s.free()
		return
	}
	end := bytes.IndexByte(buf[:n], '\n')
	if end < 0 {
		// A line that comes in pieces stays in the socket as well: more of
		// it will wake us again.
		if n == len(buf) {
			s.dev.log.Debug("connection closed: no command in its first line")
			s.free()
		}
		return
	}
	if _, err := unix.Read(s.fd, buf[:end+1]); err != nil {
		s.free()
		return
	}
	s.command(string(buf[:end]))
}

func (s *stream) command(line string) {
	d := s.dev
	switch {
	case line == cmdStatus:
		b, err := json.Marshal(d.status())
		if err == nil {
			s.say(append(b, '\n'))
		}
		s.free()
	case line == cmdReset:
		n := 0
		if !d.up {
			n = d.guestGone("the VM was reset")
		}
		s.say(okLine(uint32(n)))
		s.free()
	default:
		word, ok := bytes.CutPrefix([]byte(line), []byte(cmdConnect))
		port, err := vsock.ParsePort(string(word))
		if !ok || err != nil {
			d.log.Debug("connection closed: not a command", "line", line)
			s.free()
			return
		}
		s.hostConnects(uint32(port))
	}
}

// hostConnects has the guest asked for a connection.
func (s *stream) hostConnects(port uint32) {
	d := s.dev
	if !d.driver {
		// No driver is there to refuse, so we do it.
		d.stats.Refused++
		d.log.Debug("connection refused: the guest has no vsock driver running", "port", port)
		s.free()
		return
	}
	s.leave(kindTimer)
	d.handshakes--
	d.resumeAccept()
	s.key = key{host: d.table.port(), guest: port}
	for d.streams[s.key] != nil {
		s.key.host = d.table.port()
	}
	s.state = wanted
	if !d.openStream(s) {
		s.state = handshaking // as which it is not counted as a stream
		d.handshakes++
		s.free()
		return
	}
	s.control(wantRequest)
}

// say writes a line to the host's process. There is nothing before it in the
// socket, so there is room for it or nobody to read it.
func (s *stream) say(line []byte) bool {
	n, err := unix.Write(s.fd, line)
	return err == nil && n == len(line)
}

func okLine(n uint32) []byte {
	return append(strconv.AppendUint([]byte("OK "), uint64(n), 10), '\n')
}
