//go:build linux

package vhostuser

import (
	"errors"
	"io"
	"sync"
	"time"
)

// guestStack is the guest's side of many streams at once: what the kernel and
// its programs do in a real guest. Locks: mu, then fakeVM.mu.
type guestStack struct {
	v       *fakeVM
	serve   func(c *guestConn) // in a goroutine of its own, for each connection
	stopped chan struct{}
	wg      sync.WaitGroup

	mu    sync.Mutex // guards conns and everything in them
	conns map[key]*guestConn
}

type guestConn struct {
	st    *guestStack
	p     peer
	ready *sync.Cond

	in       []byte
	ended    bool // the host sends no more
	deaf     bool // the host takes no more
	reset    bool
	sent     uint32
	mayHave  uint32 // the host's buffer
	consumed uint32 // by the host
	told     uint32 // p.fwd, as last sent
}

var errReset = errors.New("connection reset")

// stack starts serving the host's connections with f.
func (v *fakeVM) stack(f func(c *guestConn)) *guestStack {
	st := &guestStack{v: v, serve: f, stopped: make(chan struct{}), conns: map[key]*guestConn{}}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-st.stopped:
				return
			default:
				if p, ok := v.recv(10 * time.Millisecond); ok {
					st.packet(p)
				}
			}
		}
	}()
	v.t.Cleanup(func() {
		close(st.stopped)
		<-done
		st.forget()
		st.wg.Wait()
	})
	return st
}

// forget ends all connections, as a reboot does.
func (st *guestStack) forget() {
	st.mu.Lock()
	defer st.mu.Unlock()
	for k, c := range st.conns {
		delete(st.conns, k)
		c.reset = true
		c.ready.Broadcast()
	}
}

func (st *guestStack) packet(p packet) {
	st.mu.Lock()
	defer st.mu.Unlock()
	k := key{host: p.srcPort, guest: p.dstPort}
	c := st.conns[k]
	if c == nil {
		if p.op != opRequest {
			if p.op != opReset {
				st.v.trySend(header{srcPort: k.guest, dstPort: k.host, op: opReset}, nil, patience)
			}
			return
		}
		c = &guestConn{st: st, p: peer{v: st.v, host: k.host, port: k.guest, alloc: 256 << 10}}
		c.ready = sync.NewCond(&st.mu)
		st.conns[k] = c
		st.wg.Go(func() { st.serve(c) })
		defer c.control(opResponse, 0)
	}
	c.mayHave, c.consumed = p.bufAlloc, p.fwdCnt
	switch p.op {
	case opRW:
		c.in = append(c.in, p.data...)
	case opShutdown:
		c.ended = c.ended || p.flags&shutSend != 0
		c.deaf = c.deaf || p.flags&shutReceive != 0
		if c.ended && c.deaf {
			c.control(opReset, 0)
			delete(st.conns, k)
		}
	case opReset:
		c.reset = true
		delete(st.conns, k)
	}
	c.ready.Broadcast()
}

// control sends a packet without bytes.
func (c *guestConn) control(o op, flags uint32) {
	h := c.p.header(o)
	h.flags = flags
	c.told = c.p.fwd
	c.st.v.trySend(h, nil, patience)
}

func (c *guestConn) Read(p []byte) (int, error) {
	c.st.mu.Lock()
	defer c.st.mu.Unlock()
	for len(c.in) == 0 {
		switch {
		case c.ended:
			return 0, io.EOF
		case c.reset:
			return 0, errReset
		}
		c.ready.Wait()
	}
	n := copy(p, c.in)
	c.in = c.in[n:]
	c.p.fwd += uint32(n)
	if c.p.fwd-c.told >= c.p.alloc/2 && !c.reset {
		c.control(opCreditUpdate, 0)
	}
	return n, nil
}

func (c *guestConn) Write(p []byte) (done int, err error) {
	c.st.mu.Lock()
	defer c.st.mu.Unlock()
	for done < len(p) {
		room := c.mayHave - (c.sent - c.consumed)
		if c.deaf || c.reset {
			return done, errReset
		}
		if room == 0 {
			c.ready.Wait()
			continue
		}
		n := min(len(p)-done, int(room), 32<<10)
		c.told = c.p.fwd
		c.st.v.trySend(c.p.header(opRW), p[done:done+n], patience)
		c.sent += uint32(n)
		done += n
	}
	return done, nil
}

// CloseWrite ends the guest's direction, Close both.
func (c *guestConn) CloseWrite() { c.shut(shutSend) }
func (c *guestConn) Close()      { c.shut(shutBoth) }

func (c *guestConn) shut(flags uint32) {
	c.st.mu.Lock()
	defer c.st.mu.Unlock()
	if !c.reset && c.st.conns[key{c.p.host, c.p.port}] == c {
		c.control(opShutdown, flags)
	}
}
