package machine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"vmfs/backends/hypervisor"
	"vmfs/backends/process"
	"vmfs/internal/durable"
	"vmfs/machine/events"
)

// The steps of a start, at each of which a server may be killed.
const (
	stepBegin    = "begin"    // nothing was done
	stepRecorded = "recorded" // the record says that a VMM may be there
	stepSpawned  = "spawned"  // the back end has started it
	stepRunning  = "running"  // the record says which process it is
)

func (v *VM) step(name string) {
	if hook := v.host.opts.testHook; hook != nil {
		hook(v.name, name)
	}
}

// Start starts a VM that has no VMM. When it fails the VM is as it was, and
// nothing is left of the attempt.
func (v *VM) Start(ctx context.Context) error {
	return v.run(ctx, "start", v.host.opts.Timeouts.Start, func(ctx context.Context) error {
		v.mu.Lock()
		cfg, cfgErr := v.cfg, v.cfgErr
		v.mu.Unlock()
		if cfgErr != nil {
			return cfgErr
		}
		return v.launch(ctx, "start", launching{
			typ:    cfg.Type(),
			phase:  phaseStarting,
			state:  hypervisor.StateRunning,
			memory: cfg.VMConfig().MemoryBytes,
			auto:   cfg.AutoCID(),
			spawn: func(ctx context.Context, starter hypervisor.VMStarter, socket string) (int, hypervisor.Hypervisor, error) {
				return v.withCID(cfg, func() (int, hypervisor.Hypervisor, error) {
					return starter.StartVM(ctx, v.host.opts.Paths, "", socket, v.vmConfig(cfg))
				})
			},
		})
	})
}

// launching is a VMM to be: for a start, or for a restore.
type launching struct {
	typ    hypervisor.Type
	phase  phase              // until it is there
	state  hypervisor.VMState // once it is there
	memory int64              // the guest's memory target
	auto   bool               // its vsock CID is to be picked
	cid    int64              // the one that the guest of a snapshot had, where it was picked
	spawn  func(ctx context.Context, starter hypervisor.VMStarter, socket string) (int, hypervisor.Hypervisor, error)
}

// launch brings a VMM into being and begins its session.
func (v *VM) launch(ctx context.Context, verb string, l launching) error {
	h := v.host
	v.step(stepBegin)
	starter, ok := hypervisor.StarterFor(l.typ)
	if !ok {
		return fmt.Errorf("this server has no hypervisor %q (it has %s): %w", l.typ, typeWords(), hypervisor.ErrNotSupported)
	}
	if err := v.awaitEnd(ctx); err != nil {
		return fmt.Errorf("the VM's last VMM has not ended yet: %w", err)
	}
	socket := v.socketPath(l.typ)
	if err := v.checkSocket(ctx, l.typ, socket); err != nil {
		return err
	}
	if err := v.prepareFiles(); err != nil {
		return err
	}
	began := time.Now()
	v.mu.Lock()
	before := v.rec
	v.mu.Unlock()
	if l.auto {
		if err := v.pickCID(l.cid, nil); err != nil {
			return err
		}
	}
	backend, _ := h.backends.get(l.typ)
	if err := v.saveRecord(func(r *record) {
		r.Phase, r.Backend, r.Version, r.Socket = l.phase, l.typ, backend.Version, socket
		r.Process, r.Started, r.MemoryTarget = nil, began, l.memory
	}); err != nil {
		return fmt.Errorf("not started: %w", err)
	}
	v.step(stepRecorded)
	v.emit(events.Event{Kind: events.KindStarting, Detail: []hypervisor.Detail{{Key: "verb", Value: verb}, {Key: "hypervisor", Value: string(l.typ)}}})

	pid, hv, err := l.spawn(ctx, starter, socket)
	v.step(stepSpawned)
	var proc process.Process
	if err == nil && pid > 0 {
		if proc, err = process.Find(pid); err != nil {
			hypervisor.CloseHandle(hv)
			err = fmt.Errorf("the VMM ended right after it was started: %w%s", err, logWords(v.LogPath(), began))
		}
	}
	if err != nil {
		// Without it the next server looks for a VMM, finds none, and comes to the same.
		v.tryRecord(func(r *record) {
			owner := r.Owner
			*r = before
			r.Owner = owner
		})
		return err
	}
	s := v.newSession(l.typ, proc, hv)
	if err := v.saveRecord(s.running(began)); err != nil {
		// The VMM runs and the record on disk leads to it, by its socket.
		h.log.Error("cannot write the record", "vm", v.name, "err", err)
		v.mu.Lock()
		s.running(began)(&v.rec)
		v.mu.Unlock()
	}
	v.step(stepRunning)
	caps := hv.Capabilities()
	h.backends.learn(l.typ, caps)
	v.setSession(s)
	v.update(func() {
		v.caps = caps
		v.setState(l.state, "")
	})
	v.emit(events.Event{Kind: events.KindStarted, State: l.state, Detail: s.pidDetail()})
	s.begin()
	if err := s.refresh(ctx, hv); err != nil && ctx.Err() == nil && !notRunning(err) {
		h.log.Warn("the VMM does not answer after its start", "vm", v.name, "err", err)
	}
	return nil
}

func typeWords() string {
	var words []string
	for _, t := range hypervisor.Types() {
		words = append(words, string(t))
	}
	if words == nil {
		return "none"
	}
	return strings.Join(words, ", ")
}

// checkSocket makes sure that no VMM is there already, of this VM or of another:
// a second one of the same VM would ruin its disks.
func (v *VM) checkSocket(ctx context.Context, t hypervisor.Type, socket string) error {
	if _, err := os.Lstat(socket); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	c, err := v.connect(ctx, t, socket, v.UUID())
	switch {
	case notRunning(err):
		return nil
	case err != nil:
		return err
	}
	hypervisor.CloseHandle(c.hv)
	if c.id.UUID == "" {
		return fmt.Errorf("a VMM already serves %s: %w", socket, hypervisor.ErrBusy)
	}
	return fmt.Errorf("another VMM of this VM (pid %d) already serves %s: restart the server to take it over, or end it: %w", c.id.PID, socket, hypervisor.ErrBusy)
}

// prepareFiles makes what the VMM needs in the VM's directory.
func (v *VM) prepareFiles() error {
	if err := os.Mkdir(filepath.Join(v.dir, runDir), 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if _, err := durable.KeepTail(v.LogPath(), maxLog, maxLog/4); err != nil {
		return err
	}
	if _, own := v.consolePath(); !own {
		return nil
	}
	return v.console.Prepare()
}

// maxLog bounds the log file at each start.
const maxLog = 1 << 20

// logWords returns what the VMM printed last if it did so since the time given.
func logWords(path string, since time.Time) string {
	fi, err := os.Stat(path)
	if err != nil || fi.ModTime().Before(since) {
		return ""
	}
	if last := lastLines(path, 3); last != "" {
		return "; its last output: " + last
	}
	return ""
}
