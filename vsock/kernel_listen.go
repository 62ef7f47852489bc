package vsock

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"

	mdvsock "github.com/mdlayher/vsock"

	"vmfs/internal/wait"
)

// ListenVsock waits for this guest's connections to the host's port. The
// kernel has one such port for all guests: listeners of several guests on one
// port share the kernel's listener within the process, each gets its own
// guest's connections, and those of other guests are refused.
func (k *Kernel) ListenVsock(ctx context.Context, port int) (net.Listener, error) {
	fail := func(err error) (net.Listener, error) {
		return nil, fmt.Errorf("vsock: listen for CID %d on port %d: %w", k.CID, port, err)
	}
	if err := CheckPort(port); err != nil {
		return fail(err)
	}
	if err := k.check(); err != nil {
		return fail(err)
	}
	if ctx.Err() != nil {
		return fail(context.Cause(ctx))
	}
	l, err := kernelPorts.listen(k.CID, port)
	if err != nil {
		return fail(err)
	}
	return l, nil
}

// kernelPorts is global because the kernel's ports are.
var kernelPorts = &portHub{
	bind: func(port uint32) (net.Listener, error) {
		return mdvsock.ListenContextID(anyCID, port, nil)
	},
	cidOf: func(a net.Addr) (int64, bool) {
		va, ok := a.(*mdvsock.Addr)
		if !ok {
			return 0, false
		}
		return int64(va.ContextID), true
	},
	queue: acceptQueue,
}

// anyCID binds to whatever the machine's CID is, now and later.
const anyCID = 1<<32 - 1

// acceptQueue is how many connections wait for a guest's Accept. More are
// closed, so that one listener that does not accept holds up no other. The
// guest takes that for a connection that ended at once, hence the large number.
const acceptQueue = 1024

// portHub shares the kernel's listeners between guests. Locks: mu only.
type portHub struct {
	bind  func(port uint32) (net.Listener, error)
	cidOf func(net.Addr) (int64, bool)
	queue int // connections that wait for each guest's Accept

	mu    sync.Mutex // guards ports and the guests of each
	ports map[int]*hubPort
}

type hubPort struct {
	l      net.Listener
	guests map[int64]*kernelListener
	stop   chan struct{} // closed with l, under the hub's lock
	done   chan struct{} // closed when the accept loop has ended
}

func (p *hubPort) close() {
	close(p.stop)
	_ = p.l.Close()
}

func (h *portHub) listen(cid int64, port int) (net.Listener, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.ports[port]
	if p == nil {
		l, err := h.bind(uint32(port))
		if err != nil {
			return nil, err
		}
		p = &hubPort{l: l, guests: map[int64]*kernelListener{},
			stop: make(chan struct{}), done: make(chan struct{})}
		if h.ports == nil {
			h.ports = map[int]*hubPort{}
		}
		h.ports[port] = p
		go h.serve(port, p)
	}
	if p.guests[cid] != nil {
		return nil, fmt.Errorf("already listening: %w", syscall.EADDRINUSE)
	}
	kl := &kernelListener{
		hub: h, port: p, addr: Addr{CID: cid, Port: port},
		queue: make(chan net.Conn, h.queue), closed: make(chan struct{}),
	}
	p.guests[cid] = kl
	return kl, nil
}

// serve hands each connection to its guest's listener until the port closes.
func (h *portHub) serve(port int, p *hubPort) {
	defer close(p.done)
	pause := wait.Backoff{First: time.Millisecond, Most: time.Second}
	for {
		c, err := p.l.Accept()
		if err == nil {
			pause.Reset()
			if !h.deliver(p, c) {
				_ = c.Close()
			}
			continue
		}
		if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) ||
			errors.Is(err, syscall.ENOMEM) || errors.Is(err, syscall.ECONNABORTED) {
			// Nothing tells when descriptors are free again.
			select {
			case <-p.stop:
			case <-time.After(pause.Next()):
			}
			continue
		}
		h.fail(port, p, err)
		return
	}
}

// deliver reports whether c found its listener. It does not block.
func (h *portHub) deliver(p *hubPort, c net.Conn) bool {
	cid, ok := h.cidOf(c.RemoteAddr())
	if !ok {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	kl := p.guests[cid]
	if kl == nil {
		return false
	}
	select {
	case kl.queue <- c:
		return true
	default:
		return false
	}
}

// fail ends every listener that is left when the kernel's has failed.
func (h *portHub) fail(port int, p *hubPort, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ports[port] == p {
		delete(h.ports, port)
		p.close()
	}
	for cid, kl := range p.guests {
		delete(p.guests, cid)
		kl.end(err)
	}
}

// leave takes kl off its port, and closes the port behind the last one. The
// kernel's listener is closed under the lock: who listens next must find the
// port free.
func (h *portHub) leave(kl *kernelListener) {
	h.mu.Lock()
	p := kl.port
	var last bool
	if p.guests[kl.addr.CID] == kl {
		delete(p.guests, kl.addr.CID)
		kl.end(net.ErrClosed)
		if last = len(p.guests) == 0; last {
			delete(h.ports, kl.addr.Port)
			p.close()
		}
	}
	h.mu.Unlock()
	if last {
		<-p.done
	}
}

// kernelListener is one guest's share of a port.
type kernelListener struct {
	hub    *portHub
	port   *hubPort
	addr   Addr
	queue  chan net.Conn
	closed chan struct{}
	err    error // why closed is closed; written before it
}

var _ net.Listener = (*kernelListener)(nil)

func (l *kernelListener) Addr() net.Addr { return l.addr }

func (l *kernelListener) Accept() (net.Conn, error) {
	select {
	case <-l.closed:
	default:
		select {
		case c := <-l.queue:
			return c, nil
		case <-l.closed:
		}
	}
	return nil, fmt.Errorf("vsock: accept for CID %d on port %d: %w", l.addr.CID, l.addr.Port, l.err)
}

// Close wakes Accept and refuses the connections nobody accepted.
func (l *kernelListener) Close() error {
	l.hub.leave(l)
	return nil
}

// end is called once, under the hub's lock, when nothing is delivered any more.
func (l *kernelListener) end(err error) {
	l.err = err
	close(l.closed)
	for {
		select {
		case c := <-l.queue:
			_ = c.Close()
		default:
			return
		}
	}
}
