// Package handle is what a handle on a VM has beside the connection to its VMM, which is
// the same for all VMMs that are processes: what it runs beside its callers, the events that it
// tells, its guest on the way to a size, the end of the VMM's process, and what it knows of the
// guest that no VMM says, for the next server too.
//
// The package imports the standard library, the packages beside it that back ends have in
// common, and internal/queue and wait.
package handle

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"vmfs/backends/gate"
	"vmfs/backends/hypervisor"
	"vmfs/backends/process"
	"vmfs/backends/rundir"
	"vmfs/internal/queue"
)

// A Config is what a Handle is made of.
type Config struct {
	Dir rundir.Dir
	// Record is what the VM was started with, as far as that is known.
	Record Record
	// Child is the VMM's process, nil where another server has started it.
	Child *process.Child
	// Able says what such a VM can do.
	Able hypervisor.Capable
	Log  *slog.Logger
	// HangUp gives up the connection, so that all calls return that wait for the VMM.
	HangUp func() error
}

// A Record is a rundir.Kept.
type Record interface {
	Common() *rundir.Record // nil where there is none
	Change(func(*rundir.Record)) error
}

// A Handle is a part of the handle on one VM. Its fields do not change.
type Handle struct {
	Name  string         // the VM's
	Log   *slog.Logger   // names it
	Child *process.Child // the VMM's process, nil where another server has started it
	// Life ends with Close.
	Life context.Context
	// Gate is held by what keeps the VM's other commands out.
	Gate gate.Gate
	// Queue has the events that the consumer has not received.
	Queue *queue.Queue[hypervisor.Event]

	dir    rundir.Dir
	rec    Record
	caps   hypervisor.Capabilities
	hangUp func() error
	end    context.CancelFunc // ends Life
	beside sync.WaitGroup     // what Spawn runs
	target chan struct{}      // holds a token while a memory target is being set

	mu      sync.Mutex // guards the fields below
	closed  bool
	untrack func() // ends what tracks the guest's way to a target; nil is nothing
	guest
}

// maxEvents bounds the events that wait for a consumer who does not receive.
const maxEvents = 4096

// New makes a Handle.
func New(c Config) *Handle {
	h := &Handle{
		Child: c.Child, Queue: queue.NewSized(maxEvents, hypervisor.MaxEventBytes, hypervisor.Event.Size, hypervisor.LostEvents),
		dir: c.Dir, rec: c.Record, hangUp: c.HangUp, target: make(chan struct{}, 1),
	}
	var config hypervisor.VMConfig
	if rec := h.rec.Common(); rec != nil {
		config = rec.Config.VMConfig
		h.ran, h.held = rec.Ran, rec.Resume
	}
	h.Name = cmp.Or(config.Name, c.Dir.VM())
	h.Log = c.Log.With("vm", h.Name)
	h.caps = c.Able.Capabilities(config)
	h.Life, h.end = context.WithCancel(context.Background())
	return h
}

// ErrClosed is that the handle is closed.
var ErrClosed = fmt.Errorf("the handle is closed: %w", net.ErrClosed)

// Close gives up the connection and leaves the VMM as it is.
func (h *Handle) Close() error {
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	h.end()
	err := h.hangUp()
	h.beside.Wait()
	h.Queue.Close(net.ErrClosed)
	return err
}

// Spawn runs f beside the handle's callers, unless it is closed, which is false.
func (h *Handle) Spawn(f func()) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return false
	}
	h.beside.Go(f)
	return true
}

// AskTimeout bounds what a handle itself asks.
const AskTimeout = 5 * time.Second

// Ask runs f with a context for a question of the handle's own.
func (h *Handle) Ask(f func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(h.Life, AskTimeout)
	defer cancel()
	return f(ctx)
}

// Capabilities tells what works for this VM.
func (h *Handle) Capabilities() hypervisor.Capabilities { return h.caps }

// PID is the process of a VMM that this server has started.
func (h *Handle) PID() int { return h.Child.PID }

// Events returns the channel of the VM's events.
func (h *Handle) Events() <-chan hypervisor.Event { return h.Queue.Chan() }

// Tell reports an event. One without a kind is none.
func (h *Handle) Tell(e hypervisor.Event) {
	if e.Kind != "" {
		h.Queue.Put(e)
	}
}

// Known returns what the VM was started with, or says that it is not known.
func (h *Handle) Known() (*rundir.Record, error) {
	if rec := h.rec.Common(); rec != nil {
		return rec, nil
	}
	return nil, fmt.Errorf("what the VM was started with is not known, since %s is missing or damaged: start it again", h.dir.Record())
}

// change replaces the record, if there is one. That it could not be written is logged:
// the VM runs on, and only what a restarted server knows of it suffers.
func (h *Handle) change(change func(*rundir.Record)) {
	if err := h.rec.Change(change); err != nil {
		h.Log.Warn("record not written", "err", err)
	}
}
