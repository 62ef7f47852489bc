package machine

import (
	"cmp"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"vmfs/backends/hypervisor"
	"vmfs/backends/process"
	"vmfs/internal/printable"
	"vmfs/internal/regular"
)

// adopt looks for the VMM of every VM whose record says that there may be one,
// all at the same time, and waits until each has answered or is known to be gone,
// but not longer than Timeouts.Adopt: the rest is looked for on.
func (h *Host) adopt(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, h.opts.Timeouts.Adopt)
	defer cancel()
	var searches sync.WaitGroup
	for _, v := range h.sorted {
		switch {
		case v.unrecorded:
			searches.Add(1)
			if !h.spawn(func() {
				defer searches.Done()
				if s := v.recover(h.ctx); s != nil {
					s.settled(ctx)
				}
			}) {
				searches.Done()
			}
		case v.rec.Phase != phaseDown:
			s := v.readopt()
			searches.Go(func() { s.settled(ctx) })
		}
	}
	found := make(chan struct{})
	if !h.spawn(func() { searches.Wait(); close(found) }) {
		return ErrClosed
	}
	select {
	case <-found:
	case <-ctx.Done():
		if errors.Is(ctx.Err(), context.Canceled) {
			return ctx.Err()
		}
		h.log.Warn("some VMMs have not answered yet; the server goes on without them")
	}
	return nil
}

// readopt begins a session by what the record says.
func (v *VM) readopt() *session {
	v.mu.Lock()
	rec := v.rec
	v.mu.Unlock()
	var p process.Process
	if rec.Process != nil {
		p = *rec.Process
	}
	s := v.newSession(rec.Backend, p, nil)
	s.from = rec.Phase
	v.setSession(s)
	s.begin()
	return s
}

func (v *VM) setSession(s *session) {
	v.update(func() {
		v.session = s
		v.status.Backend, v.status.Version = s.typ, v.rec.Version
		v.status.PID, v.status.Started = s.proc.PID, v.rec.Started
		v.status.MemoryTarget, v.status.MemoryErr = v.rec.MemoryTarget, errMemoryUnasked
	})
}

// recover looks for a VMM of a VM whose record was lost. The VM's directory is
// the server's own, so a VMM on a socket in it that gives the VM's name is the
// VM's, and its uuid is the one that was lost.
func (v *VM) recover(ctx context.Context) *session {
	for _, t := range hypervisor.Types() {
		socket := v.socketPath(t)
		if _, err := os.Lstat(socket); err != nil {
			continue
		}
		c, err := v.connect(ctx, t, socket, "")
		if err != nil {
			if !notRunning(err) {
				v.notAdopted(err)
			}
			continue
		}
		hypervisor.CloseHandle(c.hv)
		if c.id.UUID == "" {
			continue // it cannot say who it is
		}
		err = v.saveRecord(func(r *record) {
			r.ID, r.UUID, r.Backend, r.Socket = v.id, c.id.UUID, t, socket
			r.Phase, r.Ran, r.Started = phaseRunning, true, time.Now()
			if p, err := process.Find(c.id.PID); err == nil {
				r.Process, r.Started = &p, time.Time{}
			}
		})
		if err != nil {
			v.notAdopted(err)
			continue
		}
		return v.readopt()
	}
	uuid := v.snapshotUUID()
	v.tryRecord(func(r *record) {
		r.ID = v.id
		r.UUID = cmp.Or(uuid, r.UUID)
	})
	return nil
}

// awaitEnd waits until there is no VMM any more.
func (v *VM) awaitEnd(ctx context.Context) error {
	return v.until(ctx, func() bool {
		v.mu.Lock()
		defer v.mu.Unlock()
		return v.session == nil
	})
}

// lastLines returns up to n of the last lines of a file, printable and joined by slashes.
func lastLines(path string, n int) string {
	f, err := regular.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	const most = 2048
	if end, err := f.Seek(0, io.SeekEnd); err == nil {
		f.Seek(max(0, end-most), io.SeekStart)
	}
	b, err := io.ReadAll(io.LimitReader(f, most))
	if err != nil {
		return ""
	}
	lines := strings.FieldsFunc(string(b), func(r rune) bool { return r == '\n' || r == '\r' })
	return printable.Line(strings.Join(lines[max(0, len(lines)-n):], " / "))
}
