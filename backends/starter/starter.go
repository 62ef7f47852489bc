// Package starter is what any back end whose VMMs are processes answers alike to those who
// start VMs: hypervisor.VMStarter with its optional interfaces. Their calls get one form and
// their errors the words that say which VMM and which VM; settings are checked; the VMM's program
// is found and asked what it is; what a failed start has made is ended.
//
// How a VM is started, restored and found again is the back end's own.
//
// The package imports the standard library, packages extras, handle, hypervisor, process and rundir,
// and internal/unixsock.
package starter

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"

	"vmfs/backends/extras"
	"vmfs/backends/handle"
	"vmfs/backends/hypervisor"
	"vmfs/backends/process"
	"vmfs/backends/rundir"
	"vmfs/internal/unixsock"
)

// A VM is the handle on one, made with handle.Handle.
type VM interface {
	hypervisor.Hypervisor
	PID() int
}

// A Request is what all VMs are started and restored by.
type Request struct {
	Paths      *hypervisor.Paths
	Version    string // of the VMM's program, "" is any
	SocketPath string // of the control socket
}

// A Config is what is particular to one VMM. V is the handles on its VMs, and P what is known of
// its program.
type Config[V VM, P Programmed] struct {
	Type hypervisor.Type // begins errors, and the keys of the settings
	VMM  string          // its name for people
	// Socket is the file name of the control socket.
	Socket   string
	Settings extras.Table
	// Dialer makes what leads into a guest, from its configuration alone.
	Dialer hypervisor.VsockDialerFactory
	// Plain leaves out of the VMM's own words what is of no use to people.
	Plain func(said string) string
	Log   *slog.Logger

	// Binary names the program where neither Paths nor the VM does.
	Binary string
	// Look returns the path of a program by what names it, or of the one there is where
	// that is "".
	Look func(name string) (path string, err error)
	// Probe asks the program at path what it is.
	Probe func(ctx context.Context, path string) (P, error)

	// Find makes the handle on the VMM that serves socketPath, whoever started it.
	Find func(ctx context.Context, socketPath string) (V, error)
	// Start starts a VM that runs.
	Start func(ctx context.Context, r Request, config hypervisor.VMConfig) (V, error)
	// Restore starts the VM of a snapshot, paused, with the configuration over laid over the saved
	// one unless it is nil.
	Restore func(ctx context.Context, r Request, snapshotPath string, over *hypervisor.VMConfig) (V, error)
}

// A Starter is the outside of a back end, whose own Starter embeds it. It may be used by several
// goroutines.
type Starter[V VM, P Programmed] struct {
	c      Config[V, P]
	probes process.Probes[P]
}

// New makes a Starter. Nothing is registered by it.
func New[V VM, P Programmed](c Config[V, P]) *Starter[V, P] { return &Starter[V, P]{c: c} }

// RegisterAs makes s, which embeds this one, the process's back end for VMs of the type.
func (f *Starter[V, P]) RegisterAs(s hypervisor.VMStarter) {
	hypervisor.RegisterStarter(f.c.Type, s)
	hypervisor.RegisterSocketName(f.c.Type, f.c.Socket)
	hypervisor.RegisterVsockDialerFactory(f.c.Type, f.c.Dialer)
	hypervisor.RegisterClientFactory(f.c.Type, func(socketPath string) (hypervisor.Hypervisor, error) {
		vm, err := f.Open(socketPath)
		if err != nil {
			return nil, err
		}
		return vm, nil
	})
}

// Open makes a handle on the VMM that serves socketPath, whoever started it. It does not wait for
// that to answer.
func (f *Starter[V, P]) Open(socketPath string) (V, error) {
	// Connecting to a Unix socket does not wait, but for a full backlog.
	ctx, cancel := context.WithTimeout(context.Background(), handle.AskTimeout)
	defer cancel()
	vm, err := f.c.Find(ctx, socketPath)
	return vm, f.wrap("open "+socketPath, err)
}

// SocketName is the file name of the control socket.
func (f *Starter[V, P]) SocketName() string { return f.c.Socket }

// CheckExtra says whether a setting of this back end exists and may have the value.
func (f *Starter[V, P]) CheckExtra(key, value string) error {
	return f.wrap("", f.c.Settings.Check(key, value))
}

// StartVM starts a VMM and lets its guest run. See hypervisor.VMStarter.
func (f *Starter[V, P]) StartVM(ctx context.Context, p *hypervisor.Paths, version, socketPath string, config hypervisor.VMConfig) (int, hypervisor.Hypervisor, error) {
	vm, err := f.c.Start(ctx, Request{p, version, socketPath}, config)
	return f.started("start "+cmp.Or(config.Name, nameOf(socketPath)), vm, err)
}

// RestoreVM starts a VMM with the VM that Snapshot wrote to snapshotPath, paused, with the
// configuration it had then. The disks that the guest could write get back the content
// they had; what they have now is lost once the VM is there, and comes back if it fails.
func (f *Starter[V, P]) RestoreVM(ctx context.Context, p *hypervisor.Paths, version, socketPath, snapshotPath string) (int, hypervisor.Hypervisor, error) {
	vm, err := f.c.Restore(ctx, Request{p, version, socketPath}, snapshotPath, nil)
	return f.started("restore "+nameOf(socketPath), vm, err)
}

// RestoreVMWith is RestoreVM with this host's configuration. See hypervisor.ConfigRestorer.
func (f *Starter[V, P]) RestoreVMWith(ctx context.Context, p *hypervisor.Paths, version, socketPath, snapshotPath string, config hypervisor.VMConfig) (int, hypervisor.Hypervisor, error) {
	vm, err := f.c.Restore(ctx, Request{p, version, socketPath}, snapshotPath, &config)
	return f.started("restore "+nameOf(socketPath), vm, err)
}

// nameOf is what a VM is called that has no name.
func nameOf(socketPath string) string { return filepath.Base(filepath.Dir(socketPath)) }

func (f *Starter[V, P]) started(op string, vm V, err error) (int, hypervisor.Hypervisor, error) {
	if err != nil {
		return 0, nil, f.wrap(op, err)
	}
	return vm.PID(), vm, nil
}

// wrap makes an error of an operation: "qemu: start web: …".
func (f *Starter[V, P]) wrap(op string, err error) error {
	switch {
	case err == nil:
		return nil
	case op == "":
		return fmt.Errorf("%s: %w", f.c.Type, err)
	}
	return fmt.Errorf("%s: %s: %w", f.c.Type, op, err)
}

// Made is what a start has made so far. What there is not is nil.
type Made struct {
	Dir    rundir.Dir
	Child  *process.Child
	Handle io.Closer
	// VsockSocket is where the vsock device of the VM listens, "" is nowhere.
	VsockSocket string
	// Ending is whether the VMM is known to be ending by itself.
	Ending bool
}

// Abandon ends what a start has made that failed with err, and returns err with the VMM's own
// words.
func (f *Starter[V, P]) Abandon(ctx context.Context, m Made, err error) error {
	if m.Child != nil {
		ending := m.Ending || errors.Is(err, hypervisor.ErrHypervisorNotRunning)
		err = m.Child.Abandon(ctx, err, process.Words{Program: f.c.VMM, Plain: f.c.Plain, Ending: ending})
	}
	if m.Handle != nil {
		_ = m.Handle.Close() // never fails
		if m.VsockSocket != "" {
			_ = unixsock.RemoveStale(m.VsockSocket) // what served it may have been killed
		}
	}
	if cerr := m.Dir.Clear(); cerr != nil {
		f.c.Log.Error("a failed start cannot be cleared away", "dir", m.Dir.String(), "err", cerr)
	}
	return err
}
