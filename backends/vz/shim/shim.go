package shim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"vmfs/backends/vz/shimapi"
	"vmfs/backends/vz/shimconfig"
	"vmfs/internal/unixsock"
)

// A Config is what a shim is run with.
type Config struct {
	Engine Engine
	// VM is a configuration that Check takes.
	VM *shimconfig.Config
	// Control listens at the control socket.
	Control *net.UnixListener
	// Log gets what happens beside requests.
	Log *slog.Logger
	// Exit ends the process at once; nil is os.Exit.
	Exit func(status int)
	// Now is the time as the host's clock has it, and how much of it the host was awake
	// for; nil asks the system.
	Now func() (wall time.Time, awake time.Duration)
}

// The bounds of the end.
const (
	// stopWait is how long the framework may take to stop a VM. The end of the process
	// does so too, and without its help.
	stopWait = 5 * time.Second
	// farewell is how long clients may take for the last of the answers and events.
	farewell = 2 * time.Second
	// lastWords is how long what the guest has printed may take to be read.
	lastWords = 200 * time.Millisecond
)

// A Shim is one that runs.
type Shim struct {
	Config
	console *console
	vsock   *vsockServer // nil where the VM has none
	ring    *ring

	ctx     context.Context // ends when the shim does
	end     context.CancelFunc
	wg      sync.WaitGroup
	made    chan struct{} // closed when the machine is made; machine is set then
	machine Machine
	turn    chan struct{} // has a token while the framework does something to the VM

	mu      sync.Mutex    // guards the fields below
	changed chan struct{} // closed and replaced with each change of the state
	state   State
	phase   shimapi.Phase
	reason  string // of the phase
	begun   bool   // the guest has run
	ordered bool   // the shim was told to stop
	doing   string // what has the turn
	target  int64
	problem string
}

// Run is the shim. It returns nil when that was told to end, and an error if there was no
// VM. It returns with a bounded delay after ctx has ended, which is an order to stop.
func Run(ctx context.Context, c Config) error {
	s := &Shim{
		Config: c, ring: newRing(), made: make(chan struct{}), turn: make(chan struct{}, 1),
		changed: make(chan struct{}), state: StateStopped, phase: shimapi.PhaseMaking, target: c.VM.Memory,
	}
	if s.Exit == nil {
		s.Exit = os.Exit
	}
	if s.Now == nil {
		s.Now = systemClock()
	}
	s.ctx, s.end = context.WithCancel(context.Background())
	defer s.end()
	var err error
	if s.console, err = openConsole(s.ctx, c.VM.Console, c.Log); err != nil {
		return err
	}
	defer s.console.close()
	if v := c.VM.Vsock; v != nil {
		l, err := unixsock.Listen(ctx, v.Socket)
		if err != nil {
			return fmt.Errorf("vsock: %w", err)
		}
		s.vsock = newVsock(s, l)
		defer s.vsock.close()
	}
	s.wg.Go(s.console.run)
	making := make(chan error, 1)
	go func() { making <- s.make() }() // it may hang for ever
	control := newControl(s, c.Control)
	s.wg.Go(control.run)

	defer context.AfterFunc(ctx, s.stop)()
	select {
	case err = <-making:
		if err != nil {
			s.end()
		}
		<-s.ctx.Done()
	case <-s.ctx.Done():
	}
	control.close()
	s.console.finish()
	done := make(chan struct{})
	go func() { s.wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(farewell): // something hangs in the framework
	}
	return err
}

// make makes the machine and what follows it.
func (s *Shim) make() error {
	files := Files{ConsoleIn: s.console.in, ConsoleOut: s.console.out}
	for _, n := range s.VM.Nets {
		var f *os.File
		if n.Kind == shimconfig.NetFile {
			f = os.NewFile(uintptr(n.FD), "network "+n.MAC)
		}
		files.Nets = append(files.Nets, f)
	}
	m, err := s.Engine.New(s.VM, files)
	if err != nil {
		return err
	}
	s.machine = m
	s.mu.Lock()
	s.phase = shimapi.PhaseCreated
	s.mu.Unlock()
	close(s.made)
	s.wg.Go(func() { s.follow(m) })
	s.wg.Go(s.watchSleep)
	if s.vsock != nil {
		s.wg.Go(s.vsock.run)
	}
	return nil
}

// follow takes what the framework tells.
func (s *Shim) follow(m Machine) {
	for {
		select {
		case c := <-m.Changes():
			s.take(c)
		case <-s.ctx.Done():
			return
		}
	}
}

// phases says what each of the framework's states is to a client, while the guest has not
// ended: the states on the way from one to another are the one they come from.
var phases = map[State]shimapi.Phase{
	StateStopped: shimapi.PhaseCreated, StateStarting: shimapi.PhaseCreated, StateRestoring: shimapi.PhaseCreated,
	StateRunning: shimapi.PhaseRunning, StatePausing: shimapi.PhaseRunning, StateStopping: shimapi.PhaseRunning,
	StatePaused: shimapi.PhasePaused, StateResuming: shimapi.PhasePaused, StateSaving: shimapi.PhasePaused,
	StateError: shimapi.PhaseEnded,
}

// take takes one change.
func (s *Shim) take(c Change) {
	if c.Net != "" {
		detail := c.Net
		if c.Err != nil {
			detail += ": " + c.Err.Error()
		}
		s.ring.put(shimapi.Event{Kind: shimapi.EventNetwork, Detail: detail})
	}
	if c.State == "" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state = c.State
	close(s.changed)
	s.changed = make(chan struct{})
	if s.phase == shimapi.PhaseEnded {
		return
	}
	phase, ok := phases[c.State]
	switch {
	case !ok:
		s.problem = fmt.Sprintf("the framework says that the VM is %q, which this vz-shim does not know", c.State)
		return
	case c.State == StateStopping && s.phase == shimapi.PhasePaused:
		return // it is stopped out of its pause
	case phase == shimapi.PhaseEnded || c.State == StateStopped && s.begun:
		reason := shimapi.ReasonGuest
		switch {
		case s.ordered:
			reason = shimapi.ReasonHost
		case c.Err != nil || c.State == StateError:
			reason = shimapi.ReasonInternal
		}
		s.ended(reason, c.Err)
		return
	case phase == s.phase:
		return
	}
	s.phase, s.reason = phase, ""
	switch phase {
	case shimapi.PhaseRunning:
		s.begun = true
		s.ring.put(shimapi.Event{Kind: shimapi.EventRunning})
	case shimapi.PhasePaused:
		s.begun = true
		s.ring.put(shimapi.Event{Kind: shimapi.EventPaused})
	}
}

// ended is the end of the guest. s.mu is held.
func (s *Shim) ended(reason string, why error) {
	if s.phase == shimapi.PhaseEnded {
		return
	}
	s.phase, s.reason = shimapi.PhaseEnded, reason
	e := shimapi.Event{Kind: shimapi.EventEnded, Reason: reason}
	if why != nil {
		e.Detail, s.problem = why.Error(), why.Error()
	}
	s.ring.put(e)
}

// stop ends the VM and then the shim. It does not wait.
func (s *Shim) stop() {
	s.mu.Lock()
	again, phase := s.ordered, s.phase
	s.ordered = true
	s.mu.Unlock()
	if again {
		return
	}
	go func() { // the shim does not outlive it by much
		if phase == shimapi.PhaseRunning || phase == shimapi.PhasePaused {
			stopped := make(chan error, 1)
			go func() { stopped <- s.machine.Stop() }() // it may hang for ever
			select {
			case err := <-stopped:
				if err != nil && !errors.Is(err, errors.ErrUnsupported) {
					s.Log.Warn("the framework does not stop the VM, which ends with this process", "err", err)
				}
			case <-time.After(stopWait):
				s.Log.Warn("the framework takes too long to stop the VM, which ends with this process")
			}
		}
		s.mu.Lock()
		s.ended(shimapi.ReasonHost, nil)
		s.mu.Unlock()
		s.end()
	}()
}

// info is how the VM is.
func (s *Shim) info() shimapi.Info {
	s.mu.Lock()
	defer s.mu.Unlock()
	return shimapi.Info{
		Phase: s.phase, Reason: s.reason, State: string(s.state), Doing: s.doing,
		Target: s.target, Memory: s.VM.Memory, Seq: s.ring.last(), Problem: s.problem,
	}
}
