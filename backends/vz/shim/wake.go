package shim

import (
	"context"
	"time"

	"vmfs/backends/vz/shimapi"
	"vmfs/guest/control"
	"vmfs/internal/wait"
)

const (
	// lookEvery is how often it is looked whether the host has slept.
	lookEvery = 2 * time.Second
	// sleptFrom is how long it must have slept for the guest's clock to be set.
	sleptFrom = 2 * time.Second
	// clockWait bounds the setting of the guest's clock.
	clockWait = 30 * time.Second
)

// systemClock asks the system. The clock that Go measures durations with stands still while
// the host sleeps, and the other does not.
func systemClock() func() (time.Time, time.Duration) {
	began := time.Now()
	return func() (time.Time, time.Duration) {
		now := time.Now()
		return now.Round(0), now.Sub(began)
	}
}

// watchSleep notices when the host has slept. The guest has slept with it and does not
// know: its agent sets its clock.
func (s *Shim) watchSleep() {
	wall, awake := s.Now()
	for wait.For(s.ctx, lookEvery) == nil {
		nextWall, nextAwake := s.Now()
		slept := nextWall.Sub(wall) - (nextAwake - awake)
		wall, awake = nextWall, nextAwake
		if slept < sleptFrom {
			continue
		}
		s.ring.put(shimapi.Event{Kind: shimapi.EventWake, Detail: slept.Round(time.Second).String()})
		if err := s.setClock(); err != nil {
			s.Log.Warn("the host has slept, and the guest's clock is late", "by", slept, "err", err)
		}
	}
}

// setClock has the guest's agent set the clock, where there is an agent and the guest runs.
func (s *Shim) setClock() error {
	if s.vsock == nil || s.phaseNow() != shimapi.PhaseRunning {
		return nil
	}
	ctx, cancel := context.WithTimeout(s.ctx, clockWait)
	defer cancel()
	c, err := control.Dial(ctx, s.vsock.agent())
	if err != nil {
		return err
	}
	defer c.Close()
	wall, _ := s.Now()
	_, err = c.SetClock(ctx, wall)
	return err
}
