package machine

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"vmfs/backends/hypervisor"
	"vmfs/internal/durable"
	"vmfs/internal/regular"
	"vmfs/machine/config"
	"vmfs/machine/console"
	"vmfs/machine/events"
	"vmfs/machine/owner"
)

// A VM is one virtual machine of a Host. Its methods may be called at the same
// time from several goroutines. After it was deleted its commands fail with
// ErrNotFound and what can be read of it stays as it was last.
type VM struct {
	host    *Host
	name    string
	id      uint64
	dir     string
	events  events.Feed
	console *console.Log

	gen atomic.Uint32 // see Gen

	disk sync.Mutex // orders the writes of record and config

	order   sync.Mutex // orders events: guards seq, history and what follows
	seq     uint64
	history events.History
	gone    bool // the last event was emitted

	mu      sync.Mutex    // guards all below
	changed chan struct{} // closed and replaced at each change
	status  Status
	rec     record
	cfg     config.Config
	cfgErr  error // why the config file could not be read
	caps    hypervisor.Capabilities
	session *session // follows the VMM; nil without one
	command *command // the one under way
	deleted bool
	failure failure
	// unrecorded tells that the record could not be read, so that only a VMM that
	// is found on one of the VM's sockets can say how it runs.
	unrecorded bool
}

// Status is what a VM was at one moment.
type Status struct {
	State hypervisor.VMState
	// Reason says why, as one word, where that is not simply what was asked for.
	Reason string
	Since  time.Time // when State or Reason last changed

	Backend hypervisor.Type
	Version string // of the VMM, where it is known
	PID     int    // of the VMM; 0 without one, or where it is no process
	Created time.Time
	Started time.Time // of the VMM; zero without one

	// MemoryTarget is the bytes that the guest should have, MemoryActual those that
	// it has, which is 0 without a VMM.
	MemoryTarget int64
	MemoryActual int64
	// MemoryErr says why MemoryActual is not known; nil where it is.
	MemoryErr error

	Busy      string // the verb of the command under way
	BusySince time.Time
	Progress  Progress // of that command

	LastExit string // how the last VMM ended, in words
	ExitTime time.Time
}

// Progress is how far a command has come, in bytes and bytes a second, as far as the
// VMM has told.
type Progress struct{ Done, Total, Rate int64 }

// newVM makes the VM of a record that is on disk.
func (h *Host) newVM(name string, rec record, cfg config.Config) *VM {
	v := &VM{
		host:    h,
		name:    name,
		id:      rec.ID,
		dir:     filepath.Join(h.dir, "vms", name),
		console: console.NewLog(h.notify),
		changed: make(chan struct{}),
		rec:     rec,
		cfg:     cfg,
		seq:     rec.Seq,
	}
	v.events.Room = &h.room
	v.history.Path = filepath.Join(v.dir, historyFile)
	v.console.Use(v.consolePath())
	v.status = Status{
		State:        hypervisor.StateCreated,
		Since:        rec.Created,
		Backend:      cfg.Type(),
		Created:      rec.Created,
		MemoryTarget: cfg.VMConfig().MemoryBytes,
		LastExit:     rec.LastExit,
		ExitTime:     rec.ExitTime,
	}
	if rec.Ran {
		v.status.State = hypervisor.StateShutdown
		v.status.Since = rec.ExitTime
	}
	return v
}

// loadVM reads a VM's directory. What cannot be read is replaced by defaults and
// told in the VM's reason and error; the unreadable files are kept.
func (h *Host) loadVM(name string) *VM {
	dir := filepath.Join(h.dir, "vms", name)
	log := h.log.With("vm", name)
	if err := durable.ClearLeftovers(filepath.Join(dir, snapshotsDir)); err != nil {
		log.Warn("cannot remove leftovers of snapshots", "err", err)
	}
	for _, d := range []string{dir, filepath.Join(dir, runDir)} {
		if err := durable.ClearTemporaries(d); err != nil {
			log.Warn("cannot remove leftovers of an earlier server", "dir", d, "err", err)
		}
	}
	path := filepath.Join(dir, recordFile)
	rec, recErr := readRecord(path)
	if recErr != nil {
		log.Error("cannot read the record", "err", recErr)
		rec = record{
			Format:  recordFormat,
			UUID:    newUUID(),
			Created: time.Now(),
			Owner:   Owner{UID: uint32(os.Getuid()), GID: uint32(os.Getgid()), Mode: owner.DefaultMode},
			Phase:   phaseDown,
			Ran:     true,
		}
		if fi, err := os.Stat(dir); err == nil {
			rec.Created = fi.ModTime()
		}
		// The next write of the record would destroy what may yet be of use.
		if err := os.Rename(path, path+".bad"); durable.IgnoreMissing(err) != nil {
			log.Error("cannot move the unreadable record away", "err", err)
		}
	}

	cfg := h.defaultConfig()
	text, cfgErr := regular.ReadFile(filepath.Join(dir, configFile), maxFile)
	if durable.IgnoreMissing(cfgErr) == nil {
		cfg, cfgErr = cfg.Merge(string(text))
	}
	if cfgErr != nil {
		log.Error("cannot read the config", "err", cfgErr)
	}

	v := h.newVM(name, rec, cfg)
	seq, state := v.history.Last()
	v.seq = max(seq, rec.Seq)
	if rec.Phase != phaseDown {
		// What it did when last seen stands until its VMM has answered or is gone.
		v.status.State = hypervisor.StateRunning
		if state == string(hypervisor.StatePaused) {
			v.status.State = hypervisor.StatePaused
		}
	}
	if cfgErr != nil {
		v.cfgErr = fmt.Errorf("the config file cannot be read, write a new one: %w", cfgErr)
		v.status.Reason = "config-unreadable"
		v.failure.set("load", v.cfgErr)
	}
	if recErr != nil {
		v.status.Reason = "record-unreadable"
		v.failure.set("load", fmt.Errorf("the record of %s cannot be read, so its owner and how it ran are not known: %w (the file is kept as %s.bad)", name, recErr, recordFile))
		v.unrecorded = true
	}
	return v
}

// Name returns the VM's name.
func (v *VM) Name() string { return v.name }

// UUID returns the VM's UUID, which its VMM knows too.
func (v *VM) UUID() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.rec.UUID
}

// ID returns a number that no other VM of the Host has or had while it is open.
func (v *VM) ID() uint64 { return v.id }

// Gen returns a number that is another whenever anything of the VM has changed:
// state, configuration, command under way.
func (v *VM) Gen() uint32 { return v.gen.Load() }

// Dir returns the VM's directory.
func (v *VM) Dir() string { return v.dir }

// LogPath returns the file with what the VMM printed.
func (v *VM) LogPath() string { return filepath.Join(v.dir, logFile) }

// ConsoleLogPath returns the file with what the serial console said.
func (v *VM) ConsoleLogPath() string {
	path, _ := v.consolePath()
	return path
}

// SocketPath returns the control socket of the VMM, or where that of the next
// one will be.
func (v *VM) SocketPath() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.socketPath(v.status.Backend)
}

func (v *VM) socketPath(t hypervisor.Type) string {
	return filepath.Join(v.dir, runDir, hypervisor.SocketNameForType(t))
}

// State returns what the VM is doing, as last heard of. It does not block.
func (v *VM) State() hypervisor.VMState {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.status.State
}

// Status returns all that is known of the VM. It does not block.
func (v *VM) Status() Status {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.status
}

// Details returns what the back end says of how the VM runs, beside its Status. It does
// not block.
func (v *VM) Details() []hypervisor.Detail {
	v.mu.Lock()
	var hv hypervisor.Hypervisor
	if v.session != nil {
		hv = v.session.hv
	}
	v.mu.Unlock()
	if d, ok := hv.(hypervisor.Describer); ok {
		return d.Describe()
	}
	return nil
}

// Watch waits until pred holds for the status and returns that one. It returns
// ErrNotFound when the VM is deleted, and ErrClosed when the Host is closed.
// A status that did not last until it was looked at may be missed; the events
// tell of every one.
func (v *VM) Watch(ctx context.Context, pred func(Status) bool) (status Status, err error) {
	var deleted bool
	err = v.until(ctx, func() bool {
		v.mu.Lock()
		status, deleted = v.status, v.deleted
		v.mu.Unlock()
		return deleted || pred(status)
	})
	if deleted {
		err = ErrNotFound
	}
	if err != nil && ctx.Err() == nil {
		err = fmt.Errorf("machine: wait %s: %w", v.name, err)
	}
	return status, err
}

// until waits until pred holds, which it asks, with no lock held, after each change
// of the VM.
func (v *VM) until(ctx context.Context, pred func() bool) error {
	for {
		v.mu.Lock()
		changed := v.changed
		v.mu.Unlock()
		if pred() {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			if pred() { // both at once
				return nil
			}
			return ctx.Err()
		case <-v.host.ctx.Done():
			return ErrClosed
		}
	}
}

// update changes what v.mu guards, and wakes all that wait in until.
func (v *VM) update(f func()) {
	v.mu.Lock()
	defer v.mu.Unlock()
	f()
	v.broadcast()
}

// broadcast wakes all that wait in until. The caller holds v.mu.
func (v *VM) broadcast() {
	v.gen.Add(1)
	close(v.changed)
	v.changed = make(chan struct{})
}

// setState sets state and reason. The caller holds v.mu and broadcasts.
func (v *VM) setState(s hypervisor.VMState, reason string) {
	if v.status.State != s || v.status.Reason != reason {
		v.status.State, v.status.Reason, v.status.Since = s, reason, time.Now()
	}
}

// Capabilities returns what the VMM can do for this VM, or before it runs, what
// the back end could with the configuration that the VM has.
func (v *VM) Capabilities() hypervisor.Capabilities {
	v.mu.Lock()
	live, caps, t, cfg := v.session != nil, v.caps, v.status.Backend, v.cfg
	v.mu.Unlock()
	if live && caps != (hypervisor.Capabilities{}) {
		return caps
	}
	return v.host.backends.capabilities(t, cfg.VMConfig())
}

// Valid returns the verbs that the VM would take now.
func (v *VM) Valid() []Verb {
	st := v.Status()
	return slices.DeleteFunc(Verbs(), func(vb Verb) bool { return !vb.Takes(st) || v.able(&vb) != nil })
}

// emit completes e, keeps it and tells it to all subscribers. The caller holds no
// lock.
func (v *VM) emit(e events.Event) {
	v.order.Lock()
	defer v.order.Unlock()
	if v.gone {
		return
	}
	v.seq++
	e.Seq, e.VM, e.Owner = v.seq, v.name, v.Owner()
	e.Cut()
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	if e.Kind == events.KindDeleted {
		v.gone = true
	} else if err := v.history.Add(e.String()); err != nil {
		v.host.log.Warn("cannot keep an event", "vm", v.name, "event", e.String(), "err", err)
	}
	v.events.Publish(e)
	v.host.feed.Publish(e)
	if v.gone {
		v.events.Close()
	}
}

// Events returns the feed of this VM's events.
func (v *VM) Events() *events.Feed { return &v.events }

// History returns the last events of the VM as lines, those of earlier servers
// included, the oldest first.
func (v *VM) History() ([]string, error) {
	v.order.Lock()
	defer v.order.Unlock()
	h := v.history
	lines, _, err := h.Lines()
	if err != nil {
		return nil, fmt.Errorf("machine: events of %s: %w", v.name, err)
	}
	return lines, nil
}
