package hypervisortest_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"vmfs/backends/hypervisor"
	"vmfs/backends/sim"
)

// starter is sim's with a breach.
type starter struct {
	*sim.Starter
	breach breach
}

func (s *starter) register() {
	hypervisor.RegisterStarter(hypervisor.TypeSim, s)
	hypervisor.RegisterSocketName(hypervisor.TypeSim, s.SocketName())
	hypervisor.RegisterVsockDialerFactory(hypervisor.TypeSim, s.World().Dialer)
	hypervisor.RegisterClientFactory(hypervisor.TypeSim, func(socket string) (hypervisor.Hypervisor, error) {
		if s.breach.client != nil {
			return s.breach.client(s, socket)
		}
		hv, err := s.World().Client(socket)
		_, hv, err = s.broken(0, hv, err)
		return hv, err
	})
}

// broken breaks what a start or the client factory returned.
func (s *starter) broken(pid int, hv hypervisor.Hypervisor, err error) (int, hypervisor.Hypervisor, error) {
	if err == nil && s.breach.wrap != nil {
		hv = s.breach.wrap(hv.(*sim.Handle))
	}
	return pid, hv, err
}

func (s *starter) StartVM(ctx context.Context, p *hypervisor.Paths, version, socket string, c hypervisor.VMConfig) (int, hypervisor.Hypervisor, error) {
	if s.breach.start != nil {
		return s.breach.start(s, ctx, socket, c)
	}
	pid, hv, err := s.Starter.StartVM(ctx, p, version, socket, c)
	return s.broken(pid, hv, err)
}

func (s *starter) RestoreVM(ctx context.Context, p *hypervisor.Paths, version, socket, path string) (int, hypervisor.Hypervisor, error) {
	if s.breach.restore != nil {
		return s.breach.restore(s, ctx, socket, path)
	}
	pid, hv, err := s.Starter.RestoreVM(ctx, p, version, socket, path)
	return s.broken(pid, hv, err)
}

// dialsAnother leads into a guest that is not the handle's.
type dialsAnother struct{ *sim.Handle }

func (h dialsAnother) VsockDialer() (hypervisor.VsockDialer, error) {
	return h.VM().World().Dialer("", h.VM().Config().VsockCID+1000), nil
}

// leave starts a process that names the socket, and does not wait for it.
func leave(socket string) {
	cmd := exec.Command("sleep", "3")
	cmd.Args[0] = "vmm " + socket
	if err := cmd.Start(); err != nil {
		panic(err)
	}
	go func() { _ = cmd.Wait() }() // ends with the sleep, or with the process
}

func makeSocket(path string) error {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return err
	}
	l.SetUnlinkOnClose(false)
	return l.Close()
}

type pauseLies struct{ *sim.Handle }

func (h pauseLies) Pause(ctx context.Context) error { return ctx.Err() }

// pauseAndInfoLie says that it pauses, in every way but the guest's.
type pauseAndInfoLie struct {
	*sim.Handle
	mu     sync.Mutex // guards paused
	paused bool
}

func (h *pauseAndInfoLie) set(ctx context.Context, paused bool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.paused = paused
	return ctx.Err()
}

func (h *pauseAndInfoLie) Pause(ctx context.Context) error  { return h.set(ctx, true) }
func (h *pauseAndInfoLie) Resume(ctx context.Context) error { return h.set(ctx, false) }

// Events are lacking, so that they cannot disagree.
func (h *pauseAndInfoLie) Events() {}

func (h *pauseAndInfoLie) GetVMInfo(ctx context.Context) (*hypervisor.VMInfo, error) {
	info, err := h.Handle.GetVMInfo(ctx)
	h.mu.Lock()
	defer h.mu.Unlock()
	if err == nil && h.paused {
		info.State = hypervisor.StatePaused
	}
	return info, err
}

type pauseOnce struct{ *sim.Handle }

func (h pauseOnce) Pause(ctx context.Context) error {
	if info, err := h.GetVMInfo(ctx); err == nil && info.State == hypervisor.StatePaused {
		return hypervisor.ErrBusy
	}
	return h.Handle.Pause(ctx)
}

type contextIgnored struct{ *sim.Handle }

func (h contextIgnored) Identify(ctx context.Context) (hypervisor.Identity, error) {
	return h.Handle.Identify(context.WithoutCancel(ctx))
}

type contextLookedAt struct{ *sim.Handle }

func (h contextLookedAt) Identify(ctx context.Context) (hypervisor.Identity, error) {
	if err := ctx.Err(); err != nil {
		return hypervisor.Identity{}, err
	}
	return h.Handle.Identify(context.WithoutCancel(ctx))
}

type contextHidden struct{ *sim.Handle }

func (h contextHidden) Pause(ctx context.Context) error {
	err := h.Handle.Pause(ctx)
	if ctx.Err() != nil {
		return errors.New("pause: i/o timeout")
	}
	return err
}

type capabilityDenied struct{ *sim.Handle }

func (h capabilityDenied) Capabilities() hypervisor.Capabilities {
	c := h.Handle.Capabilities()
	c.SupportsSnapshot = false
	return c
}

type capabilityClaimed struct{ *sim.Handle }

func (h capabilityClaimed) Snapshot(ctx context.Context, path string) error {
	if _, err := h.GetVMInfo(ctx); err != nil {
		return err
	}
	return hypervisor.ErrNotSupported
}

type resizeEarly struct{ *sim.Handle }

func (h resizeEarly) ResizeMemoryAndWait(ctx context.Context, bytes int64, _ time.Duration) error {
	return h.ResizeMemory(ctx, bytes)
}

type resizeWithoutNumbers struct{ *sim.Handle }

func (h resizeWithoutNumbers) ResizeMemoryAndWait(ctx context.Context, bytes int64, timeout time.Duration) error {
	err := h.Handle.ResizeMemoryAndWait(ctx, bytes, timeout)
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("memory: %w", context.DeadlineExceeded)
	}
	return err
}

type memoryClamped struct{ *sim.Handle }

func (h memoryClamped) ResizeMemory(ctx context.Context, bytes int64) error {
	c := h.VM().Config()
	return h.Handle.ResizeMemory(ctx, min(bytes, c.MemoryBytes+c.HotplugBytes))
}

// memoryOfTarget takes the target for what the guest has.
type memoryOfTarget struct {
	*sim.Handle
	mu     sync.Mutex // guards target
	target *int64
}

func (h *memoryOfTarget) ResizeMemory(ctx context.Context, bytes int64) error {
	err := h.Handle.ResizeMemory(ctx, bytes)
	if err == nil {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.target = &bytes
	}
	return err
}

func (h *memoryOfTarget) ResizeMemoryAndWait(ctx context.Context, bytes int64, _ time.Duration) error {
	return h.ResizeMemory(ctx, bytes)
}

func (h *memoryOfTarget) GetVMInfo(ctx context.Context) (*hypervisor.VMInfo, error) {
	info, err := h.Handle.GetVMInfo(ctx)
	h.mu.Lock()
	defer h.mu.Unlock()
	if err == nil && h.target != nil {
		info.MemoryActualSize = h.target
	}
	return info, err
}

type notRunningUnwrapped struct{ *sim.Handle }

func (h notRunningUnwrapped) Pause(ctx context.Context) error {
	err := h.Handle.Pause(ctx)
	if errors.Is(err, hypervisor.ErrHypervisorNotRunning) {
		return errors.New("pause: broken pipe")
	}
	return err
}

// filter is a handle with other events.
type filter struct {
	*sim.Handle
	ch chan hypervisor.Event
}

func newFilter(h *sim.Handle, closes bool, keep func(hypervisor.Event) bool) filter {
	// Room for more events than the suite causes, so that the goroutine ends
	// with the handle.
	f := filter{h, make(chan hypervisor.Event, 1<<16)}
	go func() {
		for e := range h.Events() {
			if keep(e) {
				f.ch <- e
			}
		}
		if closes {
			close(f.ch)
		}
	}()
	return f
}

func (f filter) Events() <-chan hypervisor.Event { return f.ch }

type panicHidden struct{ *sim.Handle }

func (h panicHidden) GetVMInfo(ctx context.Context) (*hypervisor.VMInfo, error) {
	info, err := h.Handle.GetVMInfo(ctx)
	if err == nil && info.Reason == sim.ReasonPanicked {
		info = &hypervisor.VMInfo{State: hypervisor.StateRunning, MemoryActualSize: info.MemoryActualSize}
	}
	return info, err
}

// ask stands for a call that reaches the VMM and does nothing.
func ask(ctx context.Context, h *sim.Handle) error {
	_, err := h.GetVMInfo(ctx)
	return err
}

type deleteIdle struct{ *sim.Handle }

func (h deleteIdle) DeleteVM(ctx context.Context) error { return ask(ctx, h.Handle) }

type shutdownIdle struct{ *sim.Handle }

func (h shutdownIdle) Shutdown(ctx context.Context) error { return ask(ctx, h.Handle) }

type resetIdle struct{ *sim.Handle }

func (h resetIdle) Reset(ctx context.Context) error { return ask(ctx, h.Handle) }

type nmiIdle struct{ *sim.Handle }

func (h nmiIdle) InjectNMI(ctx context.Context) error { return ask(ctx, h.Handle) }

type growIdle struct{ *sim.Handle }

func (h growIdle) GrowDisk(ctx context.Context, index int, bytes int64) error {
	if index == 0 && bytes == 24<<20 {
		return ask(ctx, h.Handle)
	}
	return h.Handle.GrowDisk(ctx, index, bytes)
}

type diskShrinks struct{ *sim.Handle }

func (h diskShrinks) GrowDisk(ctx context.Context, index int, bytes int64) error {
	if index == 0 && h.VM().Config().Disks[0].Size >= bytes {
		if err := ask(ctx, h.Handle); err != nil {
			return err
		}
		return os.Truncate(h.VM().Config().Disks[0].Path, bytes)
	}
	return h.Handle.GrowDisk(ctx, index, bytes)
}

type identityLies struct{ *sim.Handle }

func (h identityLies) Identify(ctx context.Context) (hypervisor.Identity, error) {
	id, err := h.Handle.Identify(ctx)
	id.UUID = strings.ToUpper(id.UUID) + "0"
	return id, err
}

type consoleDeaf struct{ *sim.Handle }

func (h consoleDeaf) OpenConsole(ctx context.Context) (io.ReadWriteCloser, error) {
	conn, err := h.Handle.OpenConsole(ctx)
	if err != nil {
		return nil, err
	}
	return deafConn{conn}, nil
}

type deafConn struct{ io.ReadWriteCloser }

func (deafConn) Write(p []byte) (int, error) { return len(p), nil }

type snapshotPauses struct{ *sim.Handle }

func (h snapshotPauses) Snapshot(ctx context.Context, path string) error {
	if err := h.Pause(ctx); err != nil {
		return err
	}
	return h.Handle.Snapshot(ctx, path)
}

type snapshotFailsPaused struct{ *sim.Handle }

func (h snapshotFailsPaused) Snapshot(ctx context.Context, path string) error {
	err := h.Handle.Snapshot(ctx, path)
	if err != nil && ctx.Err() == nil {
		_ = h.Pause(ctx) // the error of the snapshot is what counts
	}
	return err
}

type snapshotIdle struct{ *sim.Handle }

func (h snapshotIdle) Snapshot(ctx context.Context, _ string) error { return ask(ctx, h.Handle) }

type closeKills struct{ *sim.Handle }

func (h closeKills) Close() error {
	_ = h.Kill(context.Background()) // it may be gone
	return h.Handle.Close()
}

type closeIdle struct{ *sim.Handle }

func (h closeIdle) Close() error { return nil }

// oneAtATime fails calls that meet.
type oneAtATime struct {
	*sim.Handle
	mu sync.Mutex // held by the one call
}

func newOneAtATime(h *sim.Handle) *oneAtATime { return &oneAtATime{Handle: h} }

func (h *oneAtATime) one(ctx context.Context, f func(context.Context) error) error {
	if !h.mu.TryLock() {
		return errors.New("unexpected reply")
	}
	defer h.mu.Unlock()
	time.Sleep(time.Millisecond) // as a VMM that is asked over a socket
	return f(ctx)
}

func (h *oneAtATime) Pause(ctx context.Context) error  { return h.one(ctx, h.Handle.Pause) }
func (h *oneAtATime) Resume(ctx context.Context) error { return h.one(ctx, h.Handle.Resume) }
