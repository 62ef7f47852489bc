package sim

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"vmfs/backends/hypervisor"
)

// backlog is how many connections of the guest wait for an Accept; more are
// refused.
const backlog = 128

var _ hypervisor.VsockListener = (*dialer)(nil)

// ListenVsock waits for the guest's connections to port, which its console
// command dial makes. A reset of the guest leaves the listener as it is; once the
// VMM has ended nothing comes any more.
func (d *dialer) ListenVsock(ctx context.Context, port int) (net.Listener, error) {
	l, err := d.listen(ctx, port)
	if err != nil {
		return nil, fmt.Errorf("sim: listen on vsock port %d: %w", port, err)
	}
	return l, nil
}

func (d *dialer) listen(ctx context.Context, port int) (*listener, error) {
	vm, err := d.guest(port)
	if err != nil {
		return nil, err
	}
	vm.mu.Lock()
	defer vm.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if vm.listeners[port] != nil {
		return nil, fmt.Errorf("%s: %w", vm.name(), os.NewSyscallError("bind", syscall.EADDRINUSE))
	}
	l := &listener{vm: vm, port: port}
	l.cond.L = &vm.mu
	if vm.listeners == nil {
		vm.listeners = make(map[int]*listener)
	}
	vm.listeners[port] = l
	return l, nil
}

// listener is a port of the host that the guest can connect to.
type listener struct {
	vm   *VM
	port int
	cond sync.Cond // of vm.mu

	queue  []*stream // guarded by vm.mu
	closed bool      // guarded by vm.mu
}

var _ net.Listener = (*listener)(nil)

// Accept waits for the guest. The conn has CloseWrite.
func (l *listener) Accept() (net.Conn, error) {
	l.vm.mu.Lock()
	defer l.vm.mu.Unlock()
	for {
		switch {
		case l.closed:
			return nil, &net.OpError{Op: "accept", Net: "vsock", Addr: l.Addr(), Err: net.ErrClosed}
		case len(l.queue) > 0:
			s := l.queue[0]
			l.queue = l.queue[1:]
			return s, nil
		}
		l.cond.Wait()
	}
}

// Close stops listening; Accept returns, and who waits in the queue is cut off.
func (l *listener) Close() error {
	l.vm.mu.Lock()
	defer l.vm.mu.Unlock()
	if l.closed {
		return net.ErrClosed
	}
	l.closed = true
	delete(l.vm.listeners, l.port)
	for _, s := range l.queue {
		s.close()
	}
	l.queue = nil
	l.cond.Broadcast()
	return nil
}

// Addr is the host's port.
func (l *listener) Addr() net.Addr { return vsockAddr{cid: 2, port: l.port} }

// dialHost is the guest's command `dial PORT TEXT`: it connects to a port of the
// host, sends the text as a line, and then sends back what it gets. vm.mu is held.
func (vm *VM) dialHost(arg string) string {
	word, text, _ := strings.Cut(arg, " ")
	port, err := strconv.Atoi(word)
	if err != nil {
		return "dial: want PORT TEXT\r\n"
	}
	l := vm.listeners[port]
	if l == nil || len(l.queue) >= backlog {
		return "dial: connection refused\r\n"
	}
	s := newStream(vm, port, serveEcho)
	s.out.WriteString(text + "\n")
	if vm.streams == nil {
		vm.streams = make(map[*stream]struct{})
	}
	vm.streams[s] = struct{}{}
	l.queue = append(l.queue, s)
	l.cond.Broadcast()
	return "connected\r\n"
}
