package machine

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/hypervisor"
	"vmfs/backends/process"
	"vmfs/machine/events"
)

// answering is a VMM of which events arrive while it answers.
type answering struct {
	hypervisor.Hypervisor
	info      hypervisor.VMInfo
	meanwhile func()
}

func (a *answering) GetVMInfo(context.Context) (*hypervisor.VMInfo, error) {
	a.meanwhile()
	return &a.info, nil
}

// An event that came after the question knows better than the answer, of what it
// tells and of nothing else.
func TestRefreshBesideEvents(t *testing.T) {
	h, _ := simHost(t)
	v := create(t, h, "web", "")
	size := int64(300 << 20)
	hv := &answering{info: hypervisor.VMInfo{State: hypervisor.StatePaused, Reason: "asked", MemoryActualSize: &size}}
	s := v.newSession(hypervisor.TypeSim, process.Process{}, hv)
	paused := hypervisor.Event{Kind: hypervisor.EventPaused, State: hypervisor.StatePaused, Reason: "told"}
	memory := hypervisor.Event{Kind: hypervisor.EventMemory, Detail: []hypervisor.Detail{{Key: "actual", Value: "209715200"}}}
	for name, c := range map[string]struct {
		events []hypervisor.Event
		reason string
		actual int64
	}{
		"none":   {nil, "asked", 300 << 20},
		"state":  {[]hypervisor.Event{paused}, "told", 300 << 20},
		"memory": {[]hypervisor.Event{memory}, "asked", 200 << 20},
		"both":   {[]hypervisor.Event{memory, paused}, "told", 200 << 20},
		"other":  {[]hypervisor.Event{{Kind: hypervisor.EventPowerdown}}, "asked", 300 << 20},
	} {
		v.update(func() { v.status.MemoryActual, v.status.State, v.status.Reason = 0, hypervisor.StateRunning, "" })
		hv.meanwhile = func() {
			for _, e := range c.events {
				s.take(e)
			}
		}
		require.NoError(t, s.refresh(within(t), hv), name)
		got := v.Status()
		assert.Equal(t, hypervisor.StatePaused, got.State, name)
		assert.Equal(t, c.reason, got.Reason, name)
		assert.Equal(t, c.actual, got.MemoryActual, name)
	}
}

// losing is a VMM of whose events some were lost.
type losing struct {
	answering
	events chan hypervisor.Event
}

func (l *losing) Events() <-chan hypervisor.Event { return l.events }

// Where events of the VMM were lost, it is asked what the VM does now.
func TestLostEvents(t *testing.T) {
	h, _ := simHost(t)
	v := create(t, h, "web", "")
	sub := v.Events().Subscribe()
	defer sub.Close()
	hv := &losing{events: make(chan hypervisor.Event)}
	hv.info, hv.meanwhile = hypervisor.VMInfo{State: hypervisor.StatePaused, Reason: "io-error"}, func() {}
	s := v.newSession(hypervisor.TypeSim, process.Process{}, hv)
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.follow(hv)
	}()
	hv.events <- hypervisor.LostEvents(3, hypervisor.Event{Kind: hypervisor.EventPaused})
	close(hv.events)
	<-done
	r, err := sub.Next(within(t))
	require.NoError(t, err)
	assert.Equal(t, events.KindLost, r.Kind)
	assert.Equal(t, []hypervisor.Detail{{Key: "n", Value: "3"}}, r.Detail)
	assert.Equal(t, hypervisor.StatePaused, v.Status().State)
	assert.Equal(t, "io-error", v.Status().Reason)
}

// describing is a handle that has more to say.
type describing struct{ hypervisor.Hypervisor }

func (describing) Describe() []hypervisor.Detail {
	return []hypervisor.Detail{{Key: "memory.restore", Value: "on-demand"}}
}

func TestDetails(t *testing.T) {
	h, _ := simHost(t)
	v := create(t, h, "web", "")
	assert.Empty(t, v.Details(), "without a VMM")
	s := v.newSession(hypervisor.TypeSim, process.Process{}, describing{})
	v.update(func() { v.session = s })
	assert.Equal(t, []hypervisor.Detail{{Key: "memory.restore", Value: "on-demand"}}, v.Details())
	v.update(func() { v.session = nil })
	assert.Empty(t, v.Details())
}
