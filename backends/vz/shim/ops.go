package shim

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"time"

	"vmfs/backends/vz/shimapi"
	"vmfs/backends/vz/shimconfig"
	"vmfs/internal/wait"
)

const (
	// gateWait is how long the framework may say that something is not possible now.
	gateWait = 10 * time.Second
	// settleWait is how long the state may take to follow what was said to be done.
	settleWait = 30 * time.Second
)

// whenMade waits for the machine.
func (s *Shim) whenMade(ctx context.Context) (Machine, error) {
	select {
	case <-s.made:
		return s.machine, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// do has f do something to the VM, in its turn. When ctx ends the caller is let go; f goes
// on if it has begun, and keeps its turn until it returns.
func (s *Shim) do(ctx context.Context, what string, f func(ctx context.Context, m Machine) error) error {
	m, err := s.whenMade(ctx)
	if err != nil {
		return err
	}
	select {
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	s.setDoing(what)
	done := make(chan error, 1)
	go func() { // ends with f, which the framework may keep for ever
		err := ctx.Err()
		if err == nil {
			err = f(ctx, m)
		}
		s.setDoing("")
		<-s.turn
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *Shim) setDoing(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.doing = what
}

func (s *Shim) phaseNow() shimapi.Phase {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.phase
}

// wrong says why something cannot be done in the phase that the VM is in.
func (s *Shim) wrong(phase shimapi.Phase) error {
	switch phase {
	case shimapi.PhaseEnded:
		s.mu.Lock()
		defer s.mu.Unlock()
		return coded(shimapi.CodeBusy, "the guest has ended (%s)", s.reason)
	case shimapi.PhaseCreated:
		return coded(shimapi.CodeBusy, "the VM was not started yet")
	}
	return coded(shimapi.CodeBusy, "the VM is %s", phase)
}

// gate waits until the framework says that an action is possible: after another it says so
// a moment later than that is done.
func (s *Shim) gate(ctx context.Context, m Machine, a Action) error {
	bounded, cancel := context.WithTimeout(ctx, gateWait)
	defer cancel()
	pause := wait.Backoff{First: time.Millisecond, Most: 50 * time.Millisecond}
	for !m.Can(a) {
		if pause.Wait(bounded) == nil {
			continue
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return coded(shimapi.CodeBusy, "the framework does not allow to %s the VM now, which it says is %s", a, s.info().State)
	}
	return nil
}

// settle waits until the VM is in a phase, as it was said to be.
func (s *Shim) settle(ctx context.Context, phase shimapi.Phase) error {
	bounded, cancel := context.WithTimeout(ctx, settleWait)
	defer cancel()
	for {
		s.mu.Lock()
		now, changed := s.phase, s.changed
		s.mu.Unlock()
		switch now {
		case phase:
			return nil
		case shimapi.PhaseEnded:
			return s.wrong(now)
		}
		select {
		case <-changed:
		case <-bounded.Done():
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return coded(shimapi.CodeFailed, "the framework said that it was done, but the VM is %s, not %s", now, phase)
		}
	}
}

// start boots the VM, and tells its balloon what it is to have.
func (s *Shim) start(ctx context.Context) error {
	return s.do(ctx, "start", func(ctx context.Context, m Machine) error {
		if phase := s.phaseNow(); phase != shimapi.PhaseCreated {
			return s.wrong(phase)
		}
		if err := s.gate(ctx, m, ActionStart); err != nil {
			return err
		}
		if err := m.Start(); err != nil {
			return err
		}
		if err := s.settle(ctx, shimapi.PhaseRunning); err != nil {
			return err
		}
		if s.VM.Target == 0 {
			return nil
		}
		return s.setTarget(m, s.VM.Target)
	})
}

// restore reads a saved state. The VM is paused then.
func (s *Shim) restore(ctx context.Context, path string) error {
	return s.do(ctx, "restore", func(ctx context.Context, m Machine) error {
		if why := m.Support().NoSave; why != "" {
			return coded(shimapi.CodeUnsupported, "%s", why)
		}
		if phase := s.phaseNow(); phase != shimapi.PhaseCreated {
			return s.wrong(phase)
		}
		if err := m.Restore(path); err != nil {
			return err
		}
		if err := s.settle(ctx, shimapi.PhasePaused); err != nil {
			return err
		}
		if s.VM.Target == 0 {
			return nil
		}
		return s.setTarget(m, s.VM.Target)
	})
}

// pause stops the virtual CPUs.
func (s *Shim) pause(ctx context.Context) error {
	return s.do(ctx, "pause", func(ctx context.Context, m Machine) error {
		switch phase := s.phaseNow(); phase {
		case shimapi.PhasePaused:
			return nil
		case shimapi.PhaseRunning:
		default:
			return s.wrong(phase)
		}
		if err := s.gate(ctx, m, ActionPause); err != nil {
			return err
		}
		if err := m.Pause(); err != nil {
			return err
		}
		return s.settle(ctx, shimapi.PhasePaused)
	})
}

// resume lets the virtual CPUs go on. The framework says that it is done before they do.
func (s *Shim) resume(ctx context.Context) error {
	return s.do(ctx, "resume", func(ctx context.Context, m Machine) error {
		switch phase := s.phaseNow(); phase {
		case shimapi.PhaseRunning:
			return nil
		case shimapi.PhasePaused:
		default:
			return s.wrong(phase)
		}
		if err := s.gate(ctx, m, ActionResume); err != nil {
			return err
		}
		if err := m.Resume(); err != nil {
			return err
		}
		return s.settle(ctx, shimapi.PhaseRunning)
	})
}

// powerOff presses the power button. It is not one of those that take turns but for the
// framework's own sake.
func (s *Shim) powerOff(ctx context.Context) error {
	return s.do(ctx, "poweroff", func(ctx context.Context, m Machine) error {
		switch phase := s.phaseNow(); phase {
		case shimapi.PhaseRunning:
		case shimapi.PhasePaused:
			return coded(shimapi.CodeBusy, "the guest stands still and cannot be asked: resume it first")
		default:
			return s.wrong(phase)
		}
		if err := s.gate(ctx, m, ActionRequestStop); err != nil {
			return err
		}
		err := m.RequestStop()
		if err == nil {
			s.ring.put(shimapi.Event{Kind: shimapi.EventPowerOff})
		}
		return err
	})
}

// save writes the machine's state to a file that is not there yet. One that nobody waits
// for any more is removed when the framework has written it.
func (s *Shim) save(ctx context.Context, path string) error {
	return s.do(ctx, "snapshot", func(ctx context.Context, m Machine) error {
		if why := m.Support().NoSave; why != "" {
			return coded(shimapi.CodeUnsupported, "%s", why)
		}
		if phase := s.phaseNow(); phase != shimapi.PhasePaused {
			return coded(shimapi.CodeBusy, "the VM is %s, and its state can be saved while it is paused", phase)
		}
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			return coded(shimapi.CodeInvalid, "%s is there already", path)
		}
		err := m.Save(path)
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			if rerr := os.Remove(path); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
				err = errors.Join(err, rerr)
			}
		}
		return err
	})
}

// memory sets the balloon's target.
func (s *Shim) memory(ctx context.Context, bytes int64) error {
	if bytes <= 0 || bytes > s.VM.Memory || bytes%(1<<20) != 0 {
		return coded(shimapi.CodeInvalid, "%d bytes: want a multiple of 1 MiB up to %d", bytes, s.VM.Memory)
	}
	return s.do(ctx, "balloon", func(_ context.Context, m Machine) error {
		if phase := s.phaseNow(); phase != shimapi.PhaseRunning && phase != shimapi.PhasePaused {
			return s.wrong(phase)
		}
		return s.setTarget(m, bytes)
	})
}

func (s *Shim) setTarget(m Machine, bytes int64) error {
	if err := m.SetMemoryTarget(bytes); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.target = bytes
	return nil
}

// report says what the VM can do. It waits until there is one.
func (s *Shim) report(ctx context.Context) (shimconfig.Report, error) {
	m, err := s.whenMade(ctx)
	if err != nil {
		return shimconfig.Report{}, err
	}
	type said struct {
		host shimconfig.Host
		err  error
	}
	asked := make(chan said, 1)
	go func() { // it may hang for ever
		h, err := s.Engine.Host()
		asked <- said{h, err}
	}()
	select {
	case a := <-asked:
		return shimconfig.Report{Host: a.host, Support: m.Support(), Machine: m.Identifier()}, a.err
	case <-ctx.Done():
		return shimconfig.Report{}, context.Cause(ctx)
	}
}
