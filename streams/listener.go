package streams

import (
	"context"
	"fmt"
	"net"
	"time"

	"vmfs/machine"
)

// listenTimeout bounds the making of a listener, which does not ask the guest.
const listenTimeout = 10 * time.Second

// listener is a port of the host that a guest can connect to. All who wait
// for that share it; it stays while any of them waits, or has a stream of it.
type listener struct {
	v     *Guests
	vm    *machine.VM
	port  uint32
	began time.Time
	ready chan struct{} // closed once it listens
	conns chan net.Conn // from the guest, each to one who waits
	over  chan struct{} // closed when it takes no more
	gone  chan struct{} // closed when the port is free again

	// Guests.mu guards what follows.
	users int
	ln    net.Listener // nil before it listens
	err   error        // why it is over
}

// listener returns the listener on a port for one more user, who has to release
// it.
func (v *Guests) listener(ctx context.Context, vm *machine.VM, port uint32) (*listener, error) {
	for {
		v.mu.Lock()
		m, err := v.of(vm)
		if err != nil {
			v.mu.Unlock()
			return nil, err
		}
		l := m.listeners[port]
		if l != nil && l.err != nil { // it is being closed
			v.mu.Unlock()
			select {
			case <-l.gone:
				continue
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		if l == nil {
			l = &listener{
				v: v, vm: vm, port: port, began: time.Now(),
				ready: make(chan struct{}), conns: make(chan net.Conn), over: make(chan struct{}), gone: make(chan struct{}),
			}
			m.listeners[port] = l
			v.wg.Go(l.run)
		}
		l.users++
		v.mu.Unlock()
		select {
		case <-l.ready:
			return l, nil
		case <-l.over:
			err = l.why()
		case <-ctx.Done():
			err = ctx.Err()
		}
		l.release()
		return nil, err
	}
}

// run listens, and hands over what comes, one at a time: the others wait in the
// system's queue.
func (l *listener) run() {
	v := l.v
	defer func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		if m := v.vms[l.vm]; m != nil && m.listeners[l.port] == l {
			delete(m.listeners, l.port)
		}
		close(l.gone)
	}()
	ctx, cancel := context.WithTimeout(v.ctx, listenTimeout)
	ln, err := l.vm.ListenVsock(ctx, l.port)
	cancel()
	v.mu.Lock()
	if err != nil {
		l.fail(err)
		v.mu.Unlock()
		return
	}
	if l.err != nil {
		v.mu.Unlock()
		_ = ln.Close() // nobody wants it any more
		return
	}
	l.ln = ln
	v.mu.Unlock()
	close(l.ready)
	for {
		conn, err := ln.Accept()
		if err != nil {
			v.mu.Lock()
			l.fail(err)
			v.mu.Unlock()
			return
		}
		select {
		case l.conns <- conn:
		case <-l.over:
			_ = conn.Close() // nobody wants it any more
		}
	}
}

// fail ends the listener. Guests.mu is held.
func (l *listener) fail(err error) {
	if l.err != nil {
		return
	}
	l.err = err
	close(l.over)
	if l.ln != nil {
		_ = l.ln.Close() // the port is free or taken by another, whatever it says
	}
}

func (l *listener) why() error {
	l.v.mu.Lock()
	defer l.v.mu.Unlock()
	return l.err
}

// release is called by each user once.
func (l *listener) release() {
	l.v.mu.Lock()
	defer l.v.mu.Unlock()
	if l.users--; l.users == 0 {
		l.fail(net.ErrClosed)
	}
}

// Accept waits for the guest to connect to a port of the host.
func (v *Guests) Accept(ctx context.Context, vm *machine.VM, port uint32) (*Conn, error) {
	l, err := v.listener(ctx, vm, port)
	if err == nil {
		var s *Conn
		if s, err = l.accept(ctx); err == nil {
			return s, nil
		}
	}
	if ctx.Err() == nil {
		vm.RecordError(fmt.Sprint("vsock listen ", port), err)
	}
	return nil, err
}

// accept waits for a stream for one user, whose release becomes the stream's.
func (l *listener) accept(ctx context.Context) (*Conn, error) {
	var err error
	select {
	case conn := <-l.conns:
		return l.v.add(newConn(l.v, l.vm, l.port, conn, time.Now(), l.release))
	case <-l.over:
		err = l.why()
	case <-ctx.Done():
		err = ctx.Err()
	}
	l.release()
	return nil, err
}
