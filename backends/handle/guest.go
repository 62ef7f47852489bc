package handle

import (
	"context"
	"errors"
	"time"

	"vmfs/backends/hypervisor"
	"vmfs/backends/rundir"
)

// Reasons of VMInfo and of events that are the same for all VMMs.
const (
	ReasonPrelaunch     = "prelaunch"      // started, and the guest not yet let run
	ReasonSnapshot      = "snapshot"       // paused while a snapshot is written
	ReasonPanicked      = "guest-panicked" // the guest said that it crashed
	ReasonDebug         = "debug"          // a debugger stopped it
	ReasonGuestShutdown = "guest-shutdown" // the guest powered off
)

// A guest is what a handle knows of its VM's guest.
type guest struct {
	ran     bool   // it was let run
	held    bool   // a snapshot has stopped it, and will let it go on
	ending  string // why it has ended, or its VMM, once it has
	told    bool   // a caller was told of its end
	ordered bool   // a caller has ordered the VMM to end, and was not refused
}

// Ran tells whether the guest was let run, by this server or another.
func (h *Handle) Ran() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ran
}

// SetRan notes that it was, for the next server too.
func (h *Handle) SetRan() {
	h.mu.Lock()
	first := !h.ran
	h.ran = true
	h.mu.Unlock()
	if first {
		h.change(func(r *rundir.Record) { r.Ran = true })
	}
}

// Hold notes, for the next server too, that a running VM stands still for a snapshot alone,
// or that it does so no more.
func (h *Handle) Hold(held bool) {
	h.mu.Lock()
	h.held = held
	h.mu.Unlock()
	h.change(func(r *rundir.Record) { r.Resume = held })
}

// Held tells whether a server that died has left the VM standing still for a snapshot.
func (h *Handle) Held() bool {
	rec := h.rec.Common()
	return rec != nil && rec.Resume
}

// Reason is why the VM is in a state: what the handle knows of it, or else what the VMM says.
func (h *Handle) Reason(state hypervisor.VMState, said string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case state == hypervisor.StateShutdown && h.ending != "":
		return h.ending
	case state == hypervisor.StatePaused && h.held:
		return ReasonSnapshot
	}
	return said
}

// Info is what GetVMInfo tells. A nil memory is not known.
func (h *Handle) Info(state hypervisor.VMState, reason string, memory *int64) *hypervisor.VMInfo {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.told = h.told || state == hypervisor.StateShutdown
	return &hypervisor.VMInfo{State: state, Reason: reason, MemoryActualSize: memory}
}

// Ended tells whether the guest has ended, or the VMM, as far as the handle knows.
func (h *Handle) Ended() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ending != ""
}

// noteEnd notes why the guest has ended, or the VMM. It is false where that is known already.
func (h *Handle) noteEnd(reason string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ending != "" {
		return false
	}
	h.ending = reason
	return true
}

// GuestEnded is for the event of the guest's end, with the reason in it. It is told once:
// another is made none. Quit, unless it is nil, is then given to the VMM, which has stayed.
func (h *Handle) GuestEnded(e *hypervisor.Event, quit func(context.Context) error) {
	if !h.noteEnd(e.Reason) {
		*e = hypervisor.Event{}
		return
	}
	if quit == nil {
		return
	}
	h.Spawn(func() {
		err := quit(h.Life)
		if err != nil && h.Life.Err() == nil && !errors.Is(err, hypervisor.ErrHypervisorNotRunning) {
			h.Log.Warn("the VMM does not end after its guest", "err", err)
		}
	})
}

// VMMEnded is for the end of the VMM's process, and tells of it unless that of the guest was
// told. Exit is how it ended, where that is known.
func (h *Handle) VMMEnded(exit string) {
	if !h.noteEnd(hypervisor.ReasonVMMDied) {
		return
	}
	e := hypervisor.Event{Kind: hypervisor.EventShutdown, Time: time.Now(), State: hypervisor.StateShutdown, Reason: hypervisor.ReasonVMMDied}
	if exit != "" {
		e.Detail = []hypervisor.Detail{{Key: "exit", Value: exit}}
	}
	h.Tell(e)
}

// Ordered tells whether a caller has ordered the VMM to end.
func (h *Handle) Ordered() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ordered
}

// Order orders the VMM to end, by quit.
//
// When the guest has ended the handle does so by itself. A caller who was told of that end
// (see Info), and who orders it too, is not refused for being late: the first call returns
// nil then though the VMM be gone already.
func (h *Handle) Order(quit func() error) error {
	h.mu.Lock()
	before, late := h.ordered, h.told && !h.ordered
	h.ordered = true
	h.mu.Unlock()
	err := quit()
	if late && errors.Is(err, hypervisor.ErrHypervisorNotRunning) {
		return nil
	}
	if err != nil {
		h.mu.Lock()
		h.ordered = before
		h.mu.Unlock()
	}
	return err
}
