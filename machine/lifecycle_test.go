package machine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/hypervisor"
	"vmfs/backends/sim"
	"vmfs/machine/events"
)

func fault(t *testing.T, text string) sim.Fault {
	t.Helper()
	f, err := sim.ParseFault(text)
	require.NoError(t, err)
	return f
}

// guest returns the simulated VM behind v.
func guest(t *testing.T, w *sim.World, v *VM) *sim.VM {
	t.Helper()
	g, ok := w.VM(v.SocketPath())
	require.True(t, ok, "%s has no VMM", v.Name())
	return g
}

func TestLife(t *testing.T) {
	h, w := simHost(t)
	v := create(t, h, "web", "memory=256M\nhotplug=256M")
	sub := v.Events().Subscribe()
	defer sub.Close()

	require.NoError(t, v.Start(within(t)))
	s := v.Status()
	assert.Equal(t, hypervisor.StateRunning, s.State)
	assert.Equal(t, hypervisor.TypeSim, s.Backend)
	assert.Equal(t, int64(256<<20), s.MemoryTarget)
	assert.Equal(t, int64(256<<20), s.MemoryActual)
	assert.False(t, s.Started.IsZero())
	assert.True(t, v.Capabilities().SupportsPause)
	assertModes(t, v.Dir())

	require.NoError(t, v.Pause(within(t)))
	assert.Equal(t, hypervisor.StatePaused, v.State(), "the state is there when the command is over")
	require.NoError(t, v.Resume(within(t)))
	assert.Equal(t, hypervisor.StateRunning, v.State())
	require.NoError(t, v.Reset(within(t)))
	require.NoError(t, v.ResizeMemory(within(t), 300<<20, patience))
	assert.Equal(t, int64(300<<20), v.Status().MemoryActual)
	assert.Equal(t, int64(256<<20), v.Config().VMConfig().MemoryBytes)

	require.NoError(t, v.PowerOff(within(t)))
	s = awaitState(t, v, hypervisor.StateShutdown)
	await(t, v, "no VMM", func(s Status) bool { return s.LastExit != "" })
	assert.Equal(t, sim.ReasonGuestShutdown, v.Status().Reason)
	assert.Zero(t, v.Status().MemoryActual)
	_, ok := w.VM(v.SocketPath())
	assert.False(t, ok)

	seen := kinds(t, sub, events.KindExited)
	for _, k := range []string{"starting", "started", "running", "paused", "reset", "resize", "memory", "powerdown", "shutdown"} {
		assert.Contains(t, seen, k)
	}
	require.NoError(t, v.Start(within(t)), "a VM that is shutdown starts again")
	require.NoError(t, v.Stop(within(t)))
	assert.Equal(t, "stopped", v.Status().Reason)
	require.NoError(t, v.Start(within(t)))
	require.NoError(t, v.Kill(within(t)))
	assert.Equal(t, hypervisor.StateShutdown, v.State())
	assert.Equal(t, "killed", v.Status().Reason)
	require.NoError(t, h.Delete(within(t), "web"))
}

// Every verb in every state does what the table says.
func TestStatesOfVerbs(t *testing.T) {
	h, _ := simHost(t)
	does := map[string]func(*VM) error{
		"start":    func(v *VM) error { return v.Start(within(t)) },
		"pause":    func(v *VM) error { return v.Pause(within(t)) },
		"resume":   func(v *VM) error { return v.Resume(within(t)) },
		"poweroff": func(v *VM) error { return v.PowerOff(within(t)) },
		"stop":     func(v *VM) error { return v.Stop(within(t)) },
		"kill":     func(v *VM) error { return v.Kill(within(t)) },
		"reset":    func(v *VM) error { return v.Reset(within(t)) },
		"nmi":      func(v *VM) error { return v.InjectNMI(within(t)) },
		"snapshot": func(v *VM) error { return v.Snapshot(within(t), "one") },
		"restore":  func(v *VM) error { return v.Restore(within(t), "none") },
		"delete":   func(v *VM) error { return h.Delete(within(t), v.Name()) },
		"memory":   func(v *VM) error { return v.ResizeMemory(within(t), 512<<20, 0) },
		"set":      func(v *VM) error { return v.SetConfig(within(t), "memory=512M", false) },
		"cancel":   func(v *VM) error { return v.Cancel(within(t)) },
	}
	reach := map[hypervisor.VMState]func(*VM) error{
		hypervisor.StateCreated: func(v *VM) error { return nil },
		hypervisor.StateRunning: func(v *VM) error { return v.Start(within(t)) },
		hypervisor.StatePaused: func(v *VM) error {
			if err := v.Start(within(t)); err != nil {
				return err
			}
			return v.Pause(within(t))
		},
		hypervisor.StateShutdown: func(v *VM) error {
			if err := v.Start(within(t)); err != nil {
				return err
			}
			return v.Kill(within(t))
		},
	}
	n := 0
	for _, vb := range Verbs() {
		if vb.busy == refused {
			require.Contains(t, does, vb.Name)
		}
	}
	for verb, do := range does {
		for state, get := range reach {
			n++
			v := create(t, h, fmt.Sprintf("vm%d", n), "hotplug=1G")
			require.NoError(t, get(v))
			require.Equal(t, state, v.State())
			err := do(v)
			if slices.Contains(verbNamed(verb).In, state) {
				if verb == "restore" {
					assert.ErrorIs(t, err, ErrNotFound)
				} else {
					assert.NoError(t, err, "%s in %s", verb, state)
				}
				continue
			}
			var wrong *StateError
			if assert.ErrorAs(t, err, &wrong, "%s in %s", verb, state) {
				assert.ErrorIs(t, err, hypervisor.ErrBusy)
				assert.Equal(t, state, v.State())
				assert.Contains(t, v.LastError(), err.Error())
			}
		}
	}
}

// What a verb needs first is said as people would do it.
func TestHints(t *testing.T) {
	created, running, paused, shutdown := hypervisor.StateCreated, hypervisor.StateRunning, hypervisor.StatePaused, hypervisor.StateShutdown
	for _, c := range []struct {
		verb  string
		state hypervisor.VMState
		text  string
	}{
		{"pause", created, "created: start it first"},
		{"resume", created, "created: start it first"},
		{"stop", created, "created: start it first"},
		{"kill", shutdown, "shutdown: start it first"},
		{"stop", shutdown, "shutdown already"},
		{"snapshot", shutdown, "shutdown: start it first"},
		{"start", running, "running already"},
		{"resume", running, "running already"},
		{"restore", running, "running: stop it first"},
		{"delete", running, "running: stop it first"},
		{"start", paused, "paused: resume or stop it first"},
		{"pause", paused, "paused already"},
		{"delete", paused, "paused: stop it first"},
		{"nmi", paused, "paused: resume it first"},
	} {
		assert.Equal(t, c.text, verbNamed(c.verb).whyNot(c.state), "%s while %s", c.verb, c.state)
	}
	h, _ := simHost(t)
	v := create(t, h, "web", "")
	assert.EqualError(t, v.Pause(within(t)), "machine: pause web: web is created: start it first")
}

// What a VM is not capable of is refused before it is touched, whoever asks.
func TestIncapable(t *testing.T) {
	h, _ := simHost(t)
	v := started(t, h, "web", "")
	v.update(func() { v.caps = hypervisor.Capabilities{SupportsPause: true} })
	err := v.Snapshot(within(t), "one")
	require.ErrorIs(t, err, hypervisor.ErrNotSupported)
	assert.ErrorContains(t, err, `machine: snapshot web: web has no capability "snapshot"`)
	assert.ErrorIs(t, v.ResizeMemory(within(t), 1<<30, 0), hypervisor.ErrNotSupported)
	for _, vb := range v.Valid() {
		assert.NotEqual(t, "snapshot", vb.Name)
		assert.NotEqual(t, "memory", vb.Name)
	}
}

func TestStartFails(t *testing.T) {
	h, w := simHost(t)
	v := create(t, h, "web", "'sim.fault=start-fail:no such kernel'")
	err := v.Start(within(t))
	assert.ErrorContains(t, err, "no such kernel")
	assert.ErrorContains(t, err, "start web")
	assert.Equal(t, hypervisor.StateCreated, v.State())
	_, ok := w.VM(v.SocketPath())
	assert.False(t, ok)
	assert.Contains(t, v.LastError(), "no such kernel")
	rec, err := readRecord(filepath.Join(v.Dir(), recordFile))
	require.NoError(t, err)
	assert.Equal(t, phaseDown, rec.Phase)
	require.NoError(t, v.SetConfig(within(t), "sim.fault=", false))
	require.NoError(t, v.Start(within(t)))
	assert.Empty(t, v.LastError())
}

func TestOneCommandAtATime(t *testing.T) {
	h, _ := simHost(t)
	v := create(t, h, "web", "sim.fault=start-hang")
	done := make(chan error, 1)
	go func() { done <- v.Start(context.Background()) }()
	await(t, v, "busy", func(s Status) bool { return s.Busy == "start" })

	err := v.SetConfig(within(t), "memory=1G", false)
	var busy *BusyError
	require.ErrorAs(t, err, &busy)
	assert.Equal(t, "start", busy.Busy)
	assert.ErrorIs(t, err, hypervisor.ErrBusy)
	assert.ErrorIs(t, h.Delete(within(t), "web"), hypervisor.ErrBusy)
	assert.Equal(t, hypervisor.StateCreated, v.State())

	require.NoError(t, v.Cancel(within(t)))
	err = <-done
	assert.ErrorIs(t, err, context.Canceled)
	assert.ErrorContains(t, err, "start web")
	assert.Empty(t, v.Status().Busy)
	require.NoError(t, v.Cancel(within(t)), "nothing is under way")

	// Its caller's context ends it, and so do a kill and the end of the server.
	ctx, cancel := context.WithCancel(context.Background())
	go func() { done <- v.Start(ctx) }()
	await(t, v, "busy", func(s Status) bool { return s.Busy == "start" })
	cancel()
	assert.ErrorIs(t, <-done, context.Canceled)

	go func() { done <- v.Start(context.Background()) }()
	await(t, v, "busy", func(s Status) bool { return s.Busy == "start" })
	assert.NoError(t, v.Kill(within(t)))
	assert.ErrorIs(t, <-done, context.Canceled)
	assert.Equal(t, hypervisor.StateCreated, v.State())

	go func() { done <- v.Start(context.Background()) }()
	await(t, v, "busy", func(s Status) bool { return s.Busy == "start" })
	require.NoError(t, h.Close())
	assert.ErrorIs(t, <-done, ErrClosed)
}

// A VMM that does not answer costs its own commands their deadline and nobody
// else anything.
func TestHungVMM(t *testing.T) {
	h, w := simHost(t, func(o *Options) {
		o.Timeouts = Timeouts{Verb: 200 * time.Millisecond, Stop: 200 * time.Millisecond}
	})
	v, other := started(t, h, "hung", ""), started(t, h, "other", "")
	guest(t, w, v).Inject(fault(t, "hang"))
	for verb, do := range map[string]func() error{
		"pause":    func() error { return v.Pause(within(t)) },
		"reset":    func() error { return v.Reset(within(t)) },
		"nmi":      func() error { return v.InjectNMI(within(t)) },
		"poweroff": func() error { return v.PowerOff(within(t)) },
		"memory":   func() error { return v.ResizeMemory(within(t), 1<<30, 0) },
	} {
		err := do()
		assert.ErrorIs(t, err, context.DeadlineExceeded, verb)
		assert.ErrorContains(t, err, "hung", verb)
	}
	assert.Equal(t, hypervisor.StateRunning, v.State())
	require.NoError(t, other.Pause(within(t)))
	require.NoError(t, other.Resume(within(t)))

	done := make(chan error, 1)
	go func() { done <- v.Pause(context.Background()) }()
	await(t, v, "busy", func(s Status) bool { return s.Busy != "" })
	require.NoError(t, v.Kill(within(t)))
	assert.Error(t, <-done)
	assert.Equal(t, "killed", v.Status().Reason)

	require.NoError(t, v.Start(within(t)))
	guest(t, w, v).Inject(fault(t, "hang"))
	require.NoError(t, v.Stop(within(t)), "a stop is forced in the end")
	assert.Equal(t, hypervisor.StateShutdown, v.State())
	assert.Equal(t, "stopped-by-force", v.Status().Reason)
}

func TestGuestEvents(t *testing.T) {
	h, w := simHost(t)
	v := started(t, h, "web", "sim.linger=yes")
	guest(t, w, v).Inject(fault(t, "panic"))
	s := awaitState(t, v, hypervisor.StatePaused)
	assert.Equal(t, sim.ReasonPanicked, s.Reason)
	require.NoError(t, v.Reset(within(t)))
	if v.State() == hypervisor.StatePaused {
		require.NoError(t, v.Resume(within(t)))
	}

	// A VMM that stays when its guest has ended is cleared away.
	require.NoError(t, v.PowerOff(within(t)))
	awaitState(t, v, hypervisor.StateShutdown)
	require.NoError(t, v.Start(within(t)), "a start waits for the last VMM's end")

	guest(t, w, v).Inject(fault(t, "crash"))
	s = awaitState(t, v, hypervisor.StateShutdown)
	assert.Equal(t, "vmm-died", s.Reason)
	assert.Contains(t, s.LastExit, "unexpectedly")
}

func TestMemory(t *testing.T) {
	h, w := simHost(t)
	v := create(t, h, "web", "hotplug=1G")
	require.NoError(t, v.ResizeMemory(within(t), 256<<20, 0))
	assert.Equal(t, int64(256<<20), v.Config().VMConfig().MemoryBytes, "at rest it is the configuration")
	assert.Equal(t, int64(256<<20), v.Status().MemoryTarget)
	assert.ErrorIs(t, v.ResizeMemory(within(t), 0, 0), hypervisor.ErrInvalid)

	require.NoError(t, v.Start(within(t)))
	guest(t, w, v).Inject(fault(t, "no-resize"))
	err := v.ResizeMemory(within(t), 512<<20, 50*time.Millisecond)
	var late *hypervisor.ResizeError
	require.ErrorAs(t, err, &late)
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	assert.Equal(t, int64(512<<20), v.Status().MemoryTarget)
	assert.Equal(t, int64(256<<20), v.Status().MemoryActual)
	gone, cancel := context.WithCancel(within(t))
	waits := make(chan error, 1)
	go func() { waits <- v.ResizeMemory(gone, 384<<20, time.Minute) }()
	await(t, v, "the target while one waits", func(s Status) bool { return s.Busy == "memory" && s.MemoryTarget == 384<<20 })
	cancel()
	require.ErrorIs(t, <-waits, context.Canceled)
	assert.Equal(t, int64(384<<20), v.Status().MemoryTarget, "nobody has taken it back")
	for range 20 { // one that waits when its VM ends: whichever notices it first
		go func() { waits <- v.ResizeMemory(within(t), 512<<20, time.Minute) }()
		await(t, v, "a resize under way", func(s Status) bool { return s.Busy == "memory" })
		require.NoError(t, v.Kill(within(t)))
		err = <-waits
		assert.True(t, errors.Is(err, hypervisor.ErrHypervisorNotRunning) || errors.Is(err, context.Canceled), "%v", err)
		require.NoError(t, v.Start(within(t)))
		guest(t, w, v).Inject(fault(t, "no-resize"))
	}
	require.NoError(t, v.Kill(within(t)))
	assert.Equal(t, int64(256<<20), v.Status().MemoryTarget)
}

func TestConfig(t *testing.T) {
	h, _ := simHost(t)
	v := create(t, h, "web", "memory=256M\nhotplug=1G")
	require.NoError(t, v.SetConfig(within(t), "vcpus=2", false))
	b, err := os.ReadFile(filepath.Join(v.Dir(), configFile))
	require.NoError(t, err)
	assert.Equal(t, v.Config().String(), string(b))
	assert.ErrorIs(t, v.SetConfig(within(t), "nosuch=1", false), hypervisor.ErrInvalid)
	assert.Equal(t, string(b), v.Config().String())

	require.NoError(t, v.Start(within(t)))
	err = v.SetConfig(within(t), "vcpus=4\nmemory=512M", false)
	assert.ErrorIs(t, err, hypervisor.ErrBusy)
	assert.ErrorContains(t, err, "vcpus")
	assert.Equal(t, string(b), v.Config().String(), "all or nothing")
	require.NoError(t, v.SetConfig(within(t), "vcpus=2", false), "no change is no refusal")
	require.NoError(t, v.SetConfig(within(t), "memory=512M", false))
	assert.Equal(t, int64(512<<20), v.Status().MemoryTarget)
	await(t, v, "512M", func(s Status) bool { return s.MemoryActual == 512<<20 })
	require.NoError(t, v.Stop(within(t)))
	require.NoError(t, v.SetConfig(within(t), "vcpus=4", true))
	assert.Equal(t, hypervisor.TypeSim, v.Config().Type(), "the default back end is the server's")
	assert.Equal(t, 4, v.Config().VMConfig().VCPUs)
}

func TestSnapshots(t *testing.T) {
	h, w := simHost(t)
	v := started(t, h, "web", "memory=256M\nhotplug=1G")
	names, err := v.Snapshots()
	require.NoError(t, err)
	assert.Empty(t, names)
	require.NoError(t, v.ResizeMemory(within(t), 300<<20, patience))
	require.NoError(t, v.Snapshot(within(t), "one"))
	assert.Equal(t, hypervisor.StateRunning, v.State())
	err = v.Snapshot(within(t), "one")
	assert.ErrorIs(t, err, ErrExists)
	assert.EqualError(t, err, "machine: snapshot web: one already exists")
	assert.ErrorIs(t, v.Snapshot(within(t), "../one"), ErrName)
	assert.ErrorIs(t, v.DeleteSnapshot(within(t), "none"), ErrNotFound)
	require.NoError(t, v.Pause(within(t)))
	require.NoError(t, v.Snapshot(within(t), "two"))
	assert.Equal(t, hypervisor.StatePaused, v.State())

	guest(t, w, v).Inject(fault(t, "refuse@snapshot:disk on fire"))
	assert.ErrorContains(t, v.Snapshot(within(t), "three"), "disk on fire")
	names, err = v.Snapshots()
	require.NoError(t, err)
	assert.Equal(t, []string{"one", "two"}, names)
	entries, err := os.ReadDir(filepath.Join(v.Dir(), snapshotsDir))
	require.NoError(t, err)
	assert.Len(t, entries, 2, "nothing is left of a snapshot that failed")

	require.NoError(t, v.Kill(within(t)))
	require.NoError(t, v.SetConfig(within(t), "memory=1G", false))
	require.NoError(t, v.Restore(within(t), "one"))
	s := v.Status()
	assert.Equal(t, hypervisor.StatePaused, s.State)
	assert.Equal(t, int64(300<<20), s.MemoryTarget)
	assert.Equal(t, int64(300<<20), s.MemoryActual)
	assert.Equal(t, int64(256<<20), v.Config().VMConfig().MemoryBytes, "the configuration is the snapshot's")
	require.NoError(t, v.Resume(within(t)))
	require.NoError(t, v.Stop(within(t)))
	require.NoError(t, v.DeleteSnapshot(within(t), "one"))
	assert.ErrorIs(t, v.Restore(within(t), "one"), ErrNotFound)
	assertModes(t, v.Dir())
}

// What the VMM tells of a snapshot's progress is the VM's until the command is over.
func TestProgress(t *testing.T) {
	h, _ := simHost(t)
	v := started(t, h, "web", "")
	v.mu.Lock()
	s := v.session
	v.mu.Unlock()
	e := hypervisor.Event{Kind: hypervisor.EventSnapshot, Time: time.Now(), Detail: []hypervisor.Detail{
		{Key: "done", Value: "100"}, {Key: "total", Value: "400"}, {Key: "rate", Value: "50"},
	}}
	s.take(e)
	assert.Zero(t, v.Status().Progress, "no snapshot is under way")
	require.NoError(t, v.run(within(t), "snapshot", patience, func(context.Context) error {
		s.take(e)
		assert.Equal(t, Progress{Done: 100, Total: 400, Rate: 50}, v.Status().Progress)
		return nil
	}))
	assert.Zero(t, v.Status().Progress)
}

func TestErrors(t *testing.T) {
	h, w := simHost(t)
	v := started(t, h, "web", "")
	sub := v.Events().Subscribe()
	defer sub.Close()
	guest(t, w, v).Inject(fault(t, "refuse@pause:not today"))
	err := v.Pause(within(t))
	require.ErrorContains(t, err, "not today")
	assert.Equal(t, 1, strings.Count(err.Error(), "pause web"), err.Error())
	text := v.LastError()
	assert.Contains(t, text, "pause: ")
	assert.Contains(t, text, "not today")
	v.RecordError("ctl", fmt.Errorf("ctl: line 1: %w", err))
	assert.Equal(t, text, v.LastError(), "the same failure again is not another")
	var r events.Event
	for r.Kind != events.KindFailed { // what the start brought about may come after it
		r, err = sub.Next(within(t))
		require.NoError(t, err)
	}
	for more := true; more; {
		r, more = sub.TryNext()
		assert.NotEqual(t, events.KindFailed, r.Kind)
	}
	v.RecordError("frobnicate", hypervisor.ErrInvalid)
	assert.Contains(t, v.LastError(), "frobnicate: invalid argument")
	require.NoError(t, v.Reset(within(t)))
	assert.Empty(t, v.LastError())
}

// Many callers at once: the race detector's food, and every answer is one that
// makes sense.
func TestConcurrentUse(t *testing.T) {
	h, _ := simHost(t)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	var vms []*VM
	for i := range 4 {
		vms = append(vms, create(t, h, fmt.Sprintf("vm%d", i), "hotplug=1G"))
	}
	var wg sync.WaitGroup
	for i, v := range vms {
		for _, do := range []func() error{
			func() error { return v.Start(ctx) },
			func() error { return v.Pause(ctx) },
			func() error { return v.Resume(ctx) },
			func() error { return v.Kill(ctx) },
			func() error { return v.Stop(ctx) },
			func() error { return v.SetConfig(within(t), "memory=600M", false) },
			func() error { return v.ResizeMemory(ctx, 700<<20, 0) },
			func() error { return v.SetOwner(Owner{UID: uint32(i)}) },
			func() error { v.Status(); v.History(); v.LastError(); return v.Cancel(within(t)) },
			func() error { h.Create("extra", Owner{}); h.Delete(within(t), "extra"); h.VMs(); return nil },
			func() error {
				_, err := v.WriteConsole(ctx, []byte("help\n"))
				return err
			},
		} {
			wg.Go(func() {
				for ctx.Err() == nil {
					do()
				}
			})
		}
		r := v.OpenConsole()
		wg.Go(func() {
			defer r.Close()
			b := make([]byte, 512)
			for {
				if _, err := r.Read(ctx, b); err != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	for _, v := range vms {
		s := v.Status()
		assert.Empty(t, s.Busy)
		if slices.Contains(inLive, s.State) {
			assert.NoError(t, v.Kill(within(t)))
		}
		require.NoError(t, v.awaitEnd(within(t)))
		rec, err := readRecord(filepath.Join(v.Dir(), recordFile))
		require.NoError(t, err)
		assert.Equal(t, phaseDown, rec.Phase)
		assert.NoError(t, h.Delete(within(t), v.Name()))
	}
}

func TestDialVsock(t *testing.T) {
	h, _ := simHost(t)
	v := create(t, h, "web", "")
	_, err := v.DialVsock(within(t), sim.PortEcho)
	assert.ErrorIs(t, err, hypervisor.ErrHypervisorNotRunning)
	require.NoError(t, v.Start(within(t)))
	_, err = v.DialVsock(within(t), sim.PortEcho)
	assert.ErrorIs(t, err, hypervisor.ErrNotSupported)
	assert.ErrorContains(t, err, "vsock.cid")
	require.NoError(t, v.Kill(within(t)))
	require.NoError(t, v.SetConfig(within(t), "vsock.cid=77", false))
	require.NoError(t, v.Start(within(t)))
	conn, err := v.DialVsock(within(t), sim.PortEcho)
	require.NoError(t, err)
	defer conn.Close()
	_, err = conn.Write([]byte("ping"))
	require.NoError(t, err)
	b := make([]byte, 4)
	_, err = io.ReadFull(conn, b)
	require.NoError(t, err)
	assert.Equal(t, "ping", string(b))
}

// slowStarter does not say its version before it may.
type slowStarter struct {
	hypervisor.VMStarter
	hypervisor.Capable
	may chan struct{}
}

func (s slowStarter) GetVersion(p *hypervisor.Paths) (string, error) {
	<-s.may
	return s.VMStarter.GetVersion(p)
}

func TestCapabilitiesAtRest(t *testing.T) {
	h, _ := simHost(t)
	h.Backend(within(t), hypervisor.TypeSim)
	v := create(t, h, "web", "")
	assert.True(t, v.Capabilities().SupportsPause, "the back end's, before there is a VM of it")
	require.NoError(t, h.Close())

	// A server that was just started knows as much.
	starter, ok := hypervisor.StarterFor(hypervisor.TypeSim)
	require.True(t, ok)
	slow := slowStarter{starter, starter.(hypervisor.Capable), make(chan struct{})}
	hypervisor.RegisterStarter(hypervisor.TypeSim, slow)
	defer hypervisor.RegisterStarter(hypervisor.TypeSim, starter)
	h = open(t, h.dir)
	v, ok = h.VM("web")
	require.True(t, ok)
	assert.True(t, v.Capabilities().SupportsPause)
	// Who asks for the version gives up when the request does.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, h.Backend(ctx, hypervisor.TypeSim).Err, context.Canceled)
	close(slow.may)
	require.NoError(t, h.Backend(within(t), hypervisor.TypeSim).Err)
	assert.True(t, v.Capabilities().SupportsPause)

	// They are this VM's, before it runs and while it does.
	require.NoError(t, v.SetConfig(within(t), "sim.without=snapshot", false))
	assert.False(t, v.Capabilities().SupportsSnapshot)
	assert.True(t, v.Capabilities().SupportsPause)
	require.NoError(t, v.Start(within(t)))
	assert.False(t, v.Capabilities().SupportsSnapshot)
	require.ErrorIs(t, v.Snapshot(within(t), "one"), hypervisor.ErrNotSupported)
	require.NoError(t, v.Kill(within(t)))
	// A snapshot brings a configuration of its own.
	require.ErrorIs(t, v.Restore(within(t), "one"), ErrNotFound)
}

// The uuid that a lost record held is in the snapshots too, which need it.
func TestSnapshotsOutliveRecord(t *testing.T) {
	h, _ := simHost(t)
	v := started(t, h, "web", "")
	uuid := v.UUID()
	require.NoError(t, v.Snapshot(within(t), "one"))
	require.NoError(t, v.Kill(within(t)))
	require.NoError(t, h.Close())
	require.NoError(t, os.WriteFile(filepath.Join(v.Dir(), recordFile), nil, 0o600))
	h = open(t, h.dir)
	v, _ = h.VM("web")
	assert.Equal(t, uuid, v.UUID())
	require.NoError(t, v.Restore(within(t), "one"))
	assert.Equal(t, hypervisor.StatePaused, v.State())
}
