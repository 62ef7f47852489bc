package fakeengine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"vmfs/backends/hypervisor"
	"vmfs/backends/sim"
	"vmfs/backends/vz/shim"
	"vmfs/guest/control"
	"vmfs/vsock"
)

// A guest is one run of a machine's guest, which package sim simulates.
type guest struct {
	machine *Machine
	world   *sim.World
	hv      *sim.Handle
	ctx     context.Context // ends with the guest
	cancel  context.CancelFunc

	mu    sync.Mutex // guards the fields below
	over  bool
	conns []io.Closer
	late  time.Duration // what the guest's clock is set to be off
}

// where is what sim knows the VM and its vsock by. There is one in a world.
const (
	where    = "/fake"
	guestCID = 3
	// output is where the guest prints: what is opened there is the pipe itself.
	output = "/dev/fd/%d"
)

func newGuest(m *Machine, dir string) (*guest, error) {
	g := &guest{machine: m, world: sim.NewWorld()}
	g.ctx, g.cancel = context.WithCancel(context.Background())
	s := sim.New(sim.Config{World: g.world, BootTime: m.engine.config.BootTime, PowerOffTime: m.engine.config.PowerOffTime})
	c := hypervisor.VMConfig{
		Name: m.config.Name, UUID: m.config.UUID, VCPUs: m.config.CPUs, MemoryBytes: m.config.Memory,
		SerialLogPath: fmt.Sprintf(output, m.files.ConsoleOut.Fd()),
	}
	for _, d := range m.config.Disks {
		c.Disks = append(c.Disks, hypervisor.DiskConfig{Path: d.Path, Readonly: d.Readonly})
	}
	if m.config.Vsock != nil {
		c.VsockCID = guestCID
	}
	var hv hypervisor.Hypervisor
	var err error
	if dir == "" {
		_, hv, err = s.StartVM(g.ctx, nil, "", where, c)
	} else {
		_, hv, err = s.RestoreVMWith(g.ctx, nil, "", where, dir, c)
	}
	if err != nil {
		g.cancel()
		return nil, err
	}
	g.hv = hv.(*sim.Handle)
	if err := g.keyboard(); err != nil {
		g.end()
		return nil, err
	}
	return g, nil
}

// keyboard brings what is typed to the guest.
func (g *guest) keyboard() error {
	console, err := g.hv.OpenConsole(g.ctx)
	if err != nil {
		return err
	}
	g.keep(console)
	go func() { // what the guest does not take waits in the pipe
		b := make([]byte, 512)
		for {
			n, err := g.machine.files.ConsoleIn.Read(b)
			if err != nil {
				return
			}
			if _, err := console.Write(b[:n]); err != nil {
				return
			}
		}
	}()
	return nil
}

// keep has a connection end with the guest.
func (g *guest) keep(c io.Closer) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.over {
		_ = c.Close() // it came too late
		return
	}
	g.conns = append(g.conns, c)
}

// end ends the guest and all connections.
func (g *guest) end() {
	g.mu.Lock()
	over := g.over
	g.over = true
	conns := g.conns
	g.conns = nil
	g.mu.Unlock()
	if over {
		return
	}
	g.cancel()
	for _, c := range conns {
		_ = c.Close() // what they carried ends with the guest
	}
	g.world.End()
}

// Connect opens a stream to the guest.
func (m *Machine) Connect(port uint32) (shim.Conn, error) {
	if err := meet(m.config, CallConnect); err != nil {
		return nil, err
	}
	if m.config.Vsock == nil {
		return nil, fmt.Errorf("the VM has no vsock device: %w", errors.ErrUnsupported)
	}
	g := m.there()
	if g == nil {
		return nil, errors.New("the VM does not run")
	}
	agent := port == control.Port && !g.lacksAgent()
	if agent {
		port = sim.PortEcho // it is there when any is
	}
	c, err := g.world.Dialer("", guestCID).DialVsock(g.ctx, int(port))
	if errors.Is(err, syscall.ECONNREFUSED) {
		return nil, fmt.Errorf("port %d: %w", port, shim.ErrRefused)
	}
	if err != nil {
		return nil, err
	}
	if !agent {
		return c.(shim.Conn), nil
	}
	_ = c.Close() // it was a question
	return g.agent()
}

func (g *guest) lacksAgent() bool {
	l := g.machine.config.Boot.Linux
	return l != nil && slices.Contains(strings.Fields(l.Args), NoAgent)
}

// agent serves the control port on a new stream.
func (g *guest) agent() (shim.Conn, error) {
	host, inside, err := pair()
	if err != nil {
		return nil, err
	}
	g.keep(inside)
	go func() {
		defer inside.Close()
		(&control.Guest{
			Memory: func() (control.Memory, error) {
				if err := g.runs(); err != nil {
					return control.Memory{}, err
				}
				info, err := g.hv.GetVMInfo(g.ctx)
				if err != nil {
					return control.Memory{}, err
				}
				return control.Memory{Actual: *info.MemoryActualSize, Available: *info.MemoryActualSize / 2}, nil
			},
			Now: func() time.Time {
				g.mu.Lock()
				defer g.mu.Unlock()
				return time.Now().Add(g.late)
			},
			SetClock: func(t time.Time) error {
				g.mu.Lock()
				defer g.mu.Unlock()
				g.late = time.Until(t)
				return nil
			},
		}).Serve(inside)
	}()
	return host, nil
}

// runs waits until the guest does something.
func (g *guest) runs() error {
	for {
		info, err := g.hv.GetVMInfo(g.ctx)
		if err != nil {
			return err
		}
		if info.State == hypervisor.StateRunning {
			return nil
		}
		select {
		case <-time.After(2 * time.Millisecond):
		case <-g.ctx.Done():
			return g.ctx.Err()
		}
	}
}

// pair is two ends of one stream.
func pair() (a, b *net.UnixConn, err error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		return nil, nil, err
	}
	var conns []*net.UnixConn
	for _, fd := range fds {
		syscall.CloseOnExec(fd)
		f := os.NewFile(uintptr(fd), "stream")
		c, cerr := net.FileConn(f)
		_ = f.Close() // the connection has its own
		if cerr != nil {
			err = cerr
			continue
		}
		conns = append(conns, c.(*net.UnixConn))
	}
	if err != nil {
		return nil, nil, err
	}
	return conns[0], conns[1], nil
}

// A listener is a port of the host.
type listener struct {
	machine *Machine
	port    uint32
	conns   chan shim.Conn
	once    sync.Once
	done    chan struct{}
}

// Listen takes the guest's connections to a port, of this guest and of the next.
func (m *Machine) Listen(port uint32) (shim.Listener, error) {
	if err := meet(m.config, CallListen); err != nil {
		return nil, err
	}
	if err := vsock.CheckPort(int(port)); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ports[port] != nil {
		return nil, fmt.Errorf("port %d has a listener: %w", port, syscall.EADDRINUSE)
	}
	l := &listener{machine: m, port: port, conns: make(chan shim.Conn), done: make(chan struct{})}
	m.ports[port] = l
	if m.guest != nil {
		m.guest.listen(port, l)
	}
	return l, nil
}

// listen has the guest's connections go to l.
func (g *guest) listen(port uint32, l *listener) {
	from, err := g.world.Dialer("", guestCID).(hypervisor.VsockListener).ListenVsock(g.ctx, int(port))
	if err != nil {
		return // the guest has ended
	}
	g.keep(from)
	go func() { // ends with the guest
		for {
			c, err := from.Accept()
			if err != nil {
				return
			}
			select {
			case l.conns <- c.(shim.Conn):
			case <-l.done:
				_ = c.Close() // nobody takes it
				_ = from.Close()
				return
			}
		}
	}()
	go func() {
		select {
		case <-l.done:
			_ = from.Close()
		case <-g.ctx.Done():
		}
	}()
}

// Accept waits for the guest.
func (l *listener) Accept() (shim.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close stops listening.
func (l *listener) Close() error {
	l.once.Do(func() {
		close(l.done)
		l.machine.mu.Lock()
		defer l.machine.mu.Unlock()
		delete(l.machine.ports, l.port)
	})
	return nil
}
