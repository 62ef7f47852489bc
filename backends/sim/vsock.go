package sim

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"syscall"
	"time"

	"vmfs/backends/hypervisor"
)

// The ports on which the guest serves; all others are refused.
const (
	PortEcho    = 7
	PortDiscard = 9
	PortDaytime = 13
	PortChargen = 19
)

// dialer opens streams into the guest that has the vsock key when it dials.
type dialer struct {
	world *World
	key   string
}

var _ hypervisor.VsockDialer = (*dialer)(nil)

// VsockDialer returns what leads into the guest, whichever VM is to have its vsock later.
func (h *Handle) VsockDialer() (hypervisor.VsockDialer, error) {
	c := h.vm.config
	if c.VsockSocket == "" && c.VsockCID == 0 {
		return nil, fmt.Errorf("sim: vsock of %s: %w", h.vm.name(), hypervisor.ErrNotSupported)
	}
	return h.vm.world.Dialer(c.VsockSocket, c.VsockCID), nil
}

// Key names the guest.
func (d *dialer) Key() string { return d.key }

// DialVsock connects to port. It waits while the guest stands still, and is
// refused while the guest boots. The conn has CloseWrite.
func (d *dialer) DialVsock(ctx context.Context, port int) (net.Conn, error) {
	s, err := d.dial(ctx, port)
	if err != nil {
		return nil, fmt.Errorf("sim: dial vsock port %d: %w", port, err)
	}
	return s, nil
}

// guest returns the VM of the guest, of which port is to be a port.
func (d *dialer) guest(port int) (*VM, error) {
	if port < 1 || port > 1<<32-2 {
		return nil, fmt.Errorf("not from 1 to 4294967294: %w", hypervisor.ErrInvalid)
	}
	vm, ok := d.world.byVsock(d.key)
	if !ok {
		return nil, fmt.Errorf("no guest has this vsock: %w", hypervisor.ErrHypervisorNotRunning)
	}
	return vm, nil
}

func (d *dialer) dial(ctx context.Context, port int) (*stream, error) {
	vm, err := d.guest(port)
	if err != nil {
		return nil, err
	}
	vm.mu.Lock()
	defer vm.mu.Unlock()
	stop := vm.wakeAt(ctx)
	defer stop()
	for !vm.gone && vm.state != hypervisor.StateShutdown && (!vm.guestRuns() || vm.hangs(VerbVsock)) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		vm.cond.Wait()
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := vm.meet(VerbVsock); err != nil {
		return nil, fmt.Errorf("%s: %w", vm.name(), err)
	}
	serve, ok := services[port]
	if !ok || !vm.booted {
		return nil, fmt.Errorf("%s: %w", vm.name(), os.NewSyscallError("connect", syscall.ECONNREFUSED))
	}
	s := newStream(vm, port, serve)
	if vm.streams == nil {
		vm.streams = make(map[*stream]struct{})
	}
	vm.streams[s] = struct{}{}
	s.move()
	return s, nil
}

// A service is the guest's end of a stream: it moves what there is to move.
// vm.mu is held and the guest runs.
type service func(s *stream)

var services = map[int]service{
	PortEcho:    serveEcho,
	PortDiscard: serveDiscard,
	PortDaytime: serveDaytime,
	PortChargen: serveChargen,
}

func serveEcho(s *stream) {
	_, _ = io.CopyN(&s.out, &s.in, int64(max(streamRoom-s.out.Len(), 0))) // both are buffers in memory
	s.ended = s.hostEnded && s.in.Len() == 0
}

func serveDiscard(s *stream) {
	s.in.Reset()
	s.ended = s.hostEnded
}

func serveDaytime(s *stream) {
	s.in.Reset()
	if !s.ended {
		s.out.WriteString(time.Now().UTC().Format(time.RFC1123) + "\r\n")
		s.ended = true
	}
}

// serveChargen makes lines of 72 of the 95 printable characters, each beginning
// one further than the one before.
func serveChargen(s *stream) {
	s.in.Reset()
	for s.out.Len() < 4<<10 {
		for i := range 72 {
			s.out.WriteByte(byte(' ' + (s.lines+i)%95))
		}
		s.out.WriteString("\r\n")
		s.lines++
	}
}

// vsockAddr is one end of a stream.
type vsockAddr struct {
	cid  int64
	port int
}

func (a vsockAddr) Network() string { return "vsock" }
func (a vsockAddr) String() string {
	return strconv.FormatInt(a.cid, 10) + ":" + strconv.Itoa(a.port)
}

// hangUp ends every connection into the guest and to its console.
func (vm *VM) hangUp() {
	vm.hangUpStreams()
	if vm.console != nil {
		vm.console.cond.Broadcast()
	}
}

// hangUpStreams ends every stream: what the guest sent is still read, then EOF.
func (vm *VM) hangUpStreams() {
	for s := range vm.streams {
		s.ended, s.broken = true, true
		s.cond.Broadcast()
	}
	vm.streams = nil
}
