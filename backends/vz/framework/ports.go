package framework

import (
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"

	"vmfs/backends/vz/shim"
)

// ports are the host's that a guest can connect to, of which the framework listens to each
// from the first time on for as long as there is the VM: vz's own listeners cannot be
// closed safely while a guest may connect. A guest that connects while nobody listens is hung
// up on.
type ports struct {
	// open has the framework listen to a port.
	open func(port uint32) (accept func() (shim.Conn, error), err error)

	mu  sync.Mutex // guards all, and the takers of it
	all map[uint32]*port
}

type port struct {
	number uint32
	taker  *listener // nil while nobody listens
}

// listener is a shim.Listener.
type listener struct {
	ports  *ports
	port   *port
	conns  chan shim.Conn
	closed chan struct{}
}

func (p *ports) listen(number uint32) (shim.Listener, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	at := p.all[number]
	switch {
	case at == nil:
		accept, err := p.open(number)
		if err != nil {
			return nil, err
		}
		if p.all == nil {
			p.all = map[uint32]*port{}
		}
		at = &port{number: number}
		p.all[number] = at
		go p.serve(at, accept)
	case at.taker != nil:
		return nil, fmt.Errorf("port %d of the host: %w", number, syscall.EADDRINUSE)
	}
	at.taker = &listener{ports: p, port: at, conns: make(chan shim.Conn), closed: make(chan struct{})}
	return at.taker, nil
}

// retry is how long serve waits after a connection that could not be taken.
const retry = 10 * time.Millisecond

// serve hands out the guest's connections, as long as the process lives.
func (p *ports) serve(at *port, accept func() (shim.Conn, error)) {
	for {
		c, err := accept()
		if err != nil { // of that connection alone: too many open files
			time.Sleep(retry)
			continue
		}
		p.mu.Lock()
		to := at.taker
		p.mu.Unlock()
		if to == nil {
			_ = c.Close() // there is nobody to tell
			continue
		}
		select {
		case to.conns <- c:
		case <-to.closed:
			_ = c.Close()
		}
	}
}

func (l *listener) Accept() (shim.Conn, error) {
	select {
	case <-l.closed:
		return nil, net.ErrClosed
	default:
	}
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	l.ports.mu.Lock()
	defer l.ports.mu.Unlock()
	if l.port.taker == l {
		l.port.taker = nil
		close(l.closed)
	}
	return nil
}
