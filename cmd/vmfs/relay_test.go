package main

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"

	"vmfs/ninep/dial"
)

// A relay stands between a client and a server and knows what the client waits
// for, so that a script can go on when the client has got that far.
type relay struct {
	ln net.Listener
	wg sync.WaitGroup

	mu      sync.Mutex // guards what follows
	conns   []net.Conn
	reads   map[uint16]bool // tags of Treads without an answer
	changed chan struct{}   // closed and replaced when reads changes
	closed  bool
}

const tread = 116

// newRelay starts a relay from the Unix socket path to the server at to.
func newRelay(path, to string) (*relay, error) {
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	r := &relay{ln: ln, reads: make(map[uint16]bool), changed: make(chan struct{})}
	r.wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			s, err := dial.Dial(context.Background(), to)
			if err != nil || !r.keep(c, s) {
				c.Close()
				continue
			}
			r.wg.Go(func() { r.copy(s, c, func(typ byte, tag uint16) { r.note(tag, typ == tread) }) })
			r.wg.Go(func() { r.copy(c, s, func(_ byte, tag uint16) { r.note(tag, false) }) })
		}
	})
	return r, nil
}

func (r *relay) keep(conns ...net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		for _, c := range conns {
			c.Close()
		}
		return false
	}
	r.conns = append(r.conns, conns...)
	return true
}

// copy notes and passes on 9P messages until either side ends.
func (r *relay) copy(to, from net.Conn, note func(typ byte, tag uint16)) {
	defer to.Close()
	defer from.Close()
	var head [7]byte
	for {
		if _, err := io.ReadFull(from, head[:]); err != nil {
			return
		}
		body := make([]byte, binary.LittleEndian.Uint32(head[:])-uint32(len(head)))
		if _, err := io.ReadFull(from, body); err != nil {
			return
		}
		note(head[4], binary.LittleEndian.Uint16(head[5:]))
		if _, err := to.Write(append(head[:], body...)); err != nil {
			return
		}
	}
}

func (r *relay) note(tag uint16, reads bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if reads {
		r.reads[tag] = true
	} else {
		delete(r.reads, tag)
	}
	close(r.changed)
	r.changed = make(chan struct{})
}

// reading waits until the client has a read under way that is not answered.
func (r *relay) reading(ctx context.Context) error {
	for {
		r.mu.Lock()
		n, changed := len(r.reads), r.changed
		r.mu.Unlock()
		if n > 0 {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return errors.New("it reads nothing")
		}
	}
}

// close ends the relay and all that goes through it.
func (r *relay) close() {
	if r == nil {
		return
	}
	r.ln.Close()
	r.mu.Lock()
	r.closed = true
	for _, c := range r.conns {
		c.Close()
	}
	r.mu.Unlock()
	r.wg.Wait()
}
