package fakeengine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"vmfs/backends/hypervisor"
	"vmfs/backends/sim"
	"vmfs/backends/vz/shim"
	"vmfs/backends/vz/shimconfig"
)

// changesRoom is more changes than a test makes in the time of one read.
const changesRoom = 4096

// A Machine is a VM of the fake.
type Machine struct {
	engine  *Engine
	config  *shimconfig.Config
	files   shim.Files
	support shimconfig.Support
	id      []byte
	changes chan shim.Change

	mu    sync.Mutex // guards the fields below; before listener.mu
	state shim.State
	can   shim.State // what Can answers by: the state of a moment ago
	guest *guest     // nil while there is none
	ports map[uint32]*listener
}

var _ shim.Machine = (*Machine)(nil)

// Changes has what happens.
func (m *Machine) Changes() <-chan shim.Change { return m.changes }

// Support tells what the VM can do.
func (m *Machine) Support() shimconfig.Support { return m.support }

// Identifier is the machine's.
func (m *Machine) Identifier() []byte { return m.id }

// Can tells whether an action is possible.
func (m *Machine) Can(a shim.Action) bool {
	_ = meet(m.config, CallCan) // it can hang, and cannot fail
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range Rows {
		if r.Gate == a {
			return slices.Contains(r.From, m.can) && slices.Contains(r.From, m.state)
		}
	}
	return false
}

// set makes a state the VM's. m.mu is held.
func (m *Machine) set(s shim.State, why error) {
	m.state = s
	m.changes <- shim.Change{State: s, Err: why}
	if m.engine.config.Lag == 0 {
		m.can = s
		return
	}
	time.AfterFunc(m.engine.config.Lag, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.can = m.state // timers may come in another order
	})
}

// move makes a transition, with what is behind it. Done is said before the state is there.
func (m *Machine) move(call Call, f func() error) error {
	if err := meet(m.config, call); err != nil {
		return err
	}
	row := rowOf(call)
	m.mu.Lock()
	was := m.state
	if !slices.Contains(row.From, was) {
		m.mu.Unlock()
		return fmt.Errorf("invalid virtual machine state transition: %s of a VM that is %s", call, was)
	}
	if row.Via != "" {
		m.set(row.Via, nil)
	}
	m.mu.Unlock()
	err := f()
	to := row.To
	if err != nil {
		to = row.Fails
	}
	if row.Via == "" {
		return err
	}
	arrive := func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.state == row.Via {
			m.set(to, nil)
		}
	}
	if m.engine.config.Lag > 0 {
		time.AfterFunc(m.engine.config.Lag, arrive)
	} else {
		arrive()
	}
	return err
}

// Start boots the VM.
func (m *Machine) Start() error {
	return m.move(CallStart, func() error { return m.boot("") })
}

// Pause stops the guest.
func (m *Machine) Pause() error {
	return m.move(CallPause, func() error { return m.there().hv.Pause(context.Background()) })
}

// Resume lets it go on.
func (m *Machine) Resume() error {
	return m.move(CallResume, func() error { return m.there().hv.Resume(context.Background()) })
}

// Stop ends it.
func (m *Machine) Stop() error {
	if err := m.engine.needs(shimconfig.FeatureStop, "stopping a VM"); err != nil {
		return err
	}
	return m.move(CallStop, func() error {
		m.there().end()
		return nil
	})
}

// RequestStop presses the power button.
func (m *Machine) RequestStop() error {
	return m.move(CallRequest, func() error { return m.there().hv.DeleteVM(context.Background()) })
}

// SetMemoryTarget tells the balloon.
func (m *Machine) SetMemoryTarget(bytes int64) error {
	if err := meet(m.config, CallMemory); err != nil {
		return err
	}
	if err := m.engine.needs(shimconfig.FeatureBalloon, "a balloon"); err != nil {
		return err
	}
	g := m.there()
	if g == nil {
		return errors.New("a VM that does not run has no balloon")
	}
	return g.hv.ResizeMemory(context.Background(), bytes)
}

// there is the guest, nil for none.
func (m *Machine) there() *guest {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.guest
}

// boot starts the guest, from what a save left in dir unless that is "".
func (m *Machine) boot(dir string) error {
	g, err := newGuest(m, dir)
	if err != nil {
		return err
	}
	m.mu.Lock()
	m.guest = g
	for port, l := range m.ports {
		g.listen(port, l)
	}
	m.mu.Unlock()
	go m.watch(g)
	return nil
}

// watch has the framework tell of the guest's end.
func (m *Machine) watch(g *guest) {
	for e := range g.hv.Events() {
		if e.Kind != hypervisor.EventShutdown {
			continue
		}
		g.end()
		// One that ends while it boots has been running.
		for {
			m.mu.Lock()
			if m.state == shim.StateStarting || m.state == shim.StateResuming || m.state == shim.StatePausing {
				m.mu.Unlock()
				time.Sleep(time.Millisecond)
				continue
			}
			if e.Reason == sim.ReasonGuestShutdown && (m.state == shim.StateRunning || m.state == shim.StatePaused) {
				m.set(rowOf(GuestStops).To, nil)
			}
			m.mu.Unlock()
			return
		}
	}
}

// Fail is an error of the framework's own that stops the VM.
func (m *Machine) Fail(why error) {
	if g := m.there(); g != nil {
		g.end()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if slices.Contains(rowOf(GuestFails).From, m.state) {
		m.set(rowOf(GuestFails).To, why)
	}
}

// LoseNet is a network that has lost what was behind it.
func (m *Machine) LoseNet(mac string, why error) { m.changes <- shim.Change{Net: mac, Err: why} }

// Guest is the simulated VM, nil for none, for faults of its own.
func (m *Machine) Guest() *sim.VM {
	if g := m.there(); g != nil {
		return g.hv.VM()
	}
	return nil
}
