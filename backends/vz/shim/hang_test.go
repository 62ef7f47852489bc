package shim_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/vz/fakeengine"
	"vmfs/backends/vz/shimapi"
	"vmfs/backends/vz/shimconfig"
	"vmfs/vsock"
)

// short is the deadline of what is not to succeed.
const short = 100 * time.Millisecond

// inTime asks for something that hangs.
func (r *rig) inTime(m shimapi.Method, params any) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), short)
	defer cancel()
	require.ErrorIs(r.t, r.client.Call(ctx, m, params, nil), context.DeadlineExceeded, string(m))
}

// TestEngineHangs has every call of the engine hang in turn. Who has asked is let go in
// time, everybody is still told how the VM is, and when the engine goes on so does the VM.
func TestEngineHangs(t *testing.T) {
	for _, c := range []struct {
		call   fakeengine.Call
		before []shimapi.Method
		method shimapi.Method
		params any
		phase  shimapi.Phase // while it hangs
		then   shimapi.Phase // when it has gone on
	}{
		{fakeengine.CallCan, nil, shimapi.MethodStart, nil, shimapi.PhaseCreated, shimapi.PhaseRunning},
		{fakeengine.CallStart, nil, shimapi.MethodStart, nil, shimapi.PhaseCreated, shimapi.PhaseRunning},
		{fakeengine.CallPause, []shimapi.Method{shimapi.MethodStart}, shimapi.MethodPause, nil, shimapi.PhaseRunning, shimapi.PhasePaused},
		{fakeengine.CallResume, []shimapi.Method{shimapi.MethodStart, shimapi.MethodPause}, shimapi.MethodResume, nil, shimapi.PhasePaused, shimapi.PhaseRunning},
		{fakeengine.CallRequest, []shimapi.Method{shimapi.MethodStart}, shimapi.MethodPowerOff, nil, shimapi.PhaseRunning, shimapi.PhaseEnded},
		{fakeengine.CallMemory, []shimapi.Method{shimapi.MethodStart}, shimapi.MethodMemory, shimapi.Memory{Bytes: 48 << 20}, shimapi.PhaseRunning, shimapi.PhaseRunning},
		{fakeengine.CallSave, []shimapi.Method{shimapi.MethodStart, shimapi.MethodPause}, shimapi.MethodSave, shimapi.File{}, shimapi.PhasePaused, shimapi.PhasePaused},
		{fakeengine.CallRestore, nil, shimapi.MethodRestore, shimapi.File{Path: "/nowhere"}, shimapi.PhaseCreated, shimapi.PhaseCreated},
	} {
		t.Run(string(c.call), func(t *testing.T) {
			r := boot(t)
			for _, m := range c.before {
				r.ask(m, nil, nil)
			}
			params := c.params
			if c.call == fakeengine.CallSave {
				params = shimapi.File{Path: r.path("state")}
			}
			r.fault(c.call, "")
			r.inTime(c.method, params)
			i := r.info()
			assert.Equal(t, c.phase, i.Phase)
			assert.Equal(t, string(c.method), i.Doing)
			// Others wait for their turn, and in vain.
			r.inTime(shimapi.MethodPause, nil)
			r.info() // it comes behind the cancel, without which they would be gone through with
			r.clear()
			require.Eventually(t, func() bool { i := r.info(); return i.Doing == "" && i.Phase == c.then }, patience, time.Millisecond)
			if c.call == fakeengine.CallSave {
				assert.NoFileExists(t, r.path("state"), "nobody waited for it")
			}
			r.ask(shimapi.MethodStop, nil, nil)
			<-r.done
			assert.NoError(t, r.err)
		})
	}
}

// TestHungNew is an engine that does not make the VM: the shim says so, and ends when it is
// told to.
func TestHungNew(t *testing.T) {
	for _, end := range []shimapi.Method{shimapi.MethodStop, shimapi.MethodQuit} {
		t.Run(string(end), func(t *testing.T) {
			r := boot(t, func(c *shimConfig) { hang(t, c, fakeengine.CallNew) })
			r.inTime(shimapi.MethodReport, nil)
			r.inTime(shimapi.MethodStart, nil)
			assert.Equal(t, shimapi.PhaseMaking, r.info().Phase)
			r.ask(end, nil, nil)
			<-r.done
			assert.NoError(t, r.err)
		})
	}
}

// TestHungStop is a VM that the framework does not stop: the shim ends all the same.
func TestHungStop(t *testing.T) {
	t.Parallel() // it waits
	r := boot(t)
	r.ask(shimapi.MethodStart, nil, nil)
	r.fault(fakeengine.CallStop, "")
	r.ask(shimapi.MethodEvents, shimapi.After{}, nil)
	r.ask(shimapi.MethodStop, nil, nil)
	events := until(t, r.client, shimapi.EventEnded)
	assert.Equal(t, shimapi.ReasonHost, events[len(events)-1].Reason)
	<-r.done
	assert.NoError(t, r.err)
}

// TestKill ends a shim in whose engine everything hangs.
func TestKill(t *testing.T) {
	r := boot(t)
	r.ask(shimapi.MethodStart, nil, nil)
	r.fault(fakeengine.CallPause, "")
	r.inTime(shimapi.MethodPause, nil)
	go func() { _ = r.client.Call(t.Context(), shimapi.MethodKill, nil, nil) }() // a real one does not answer
	assert.Equal(t, 137, <-r.killed)
}

// TestHungConnect is a guest that does not answer: others reach it.
func TestHungConnect(t *testing.T) {
	r := boot(t)
	r.ask(shimapi.MethodStart, nil, nil)
	h := &vsock.Hybrid{Socket: r.config.Vsock.Socket, Timeout: patience}
	r.fault(fakeengine.CallConnect, "")
	ctx, cancel := context.WithTimeout(t.Context(), short)
	defer cancel()
	_, err := h.DialVsock(ctx, 7)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	assert.Equal(t, shimapi.PhaseRunning, r.info().Phase)
	r.clear()
	c, err := h.DialVsock(t.Context(), 7)
	require.NoError(t, err)
	require.NoError(t, c.Close())
}

// TestEngineFails has every call fail: what the framework says is what the caller is told,
// and nothing has changed.
func TestEngineFails(t *testing.T) {
	const words = "Internal Virtualization error. The virtual machine failed."
	for _, c := range []struct {
		call   fakeengine.Call
		before []shimapi.Method
		method shimapi.Method
		params any
	}{
		{fakeengine.CallStart, nil, shimapi.MethodStart, nil},
		{fakeengine.CallRestore, nil, shimapi.MethodRestore, shimapi.File{Path: "/nowhere"}},
		{fakeengine.CallPause, []shimapi.Method{shimapi.MethodStart}, shimapi.MethodPause, nil},
		{fakeengine.CallResume, []shimapi.Method{shimapi.MethodStart, shimapi.MethodPause}, shimapi.MethodResume, nil},
		{fakeengine.CallRequest, []shimapi.Method{shimapi.MethodStart}, shimapi.MethodPowerOff, nil},
		{fakeengine.CallMemory, []shimapi.Method{shimapi.MethodStart}, shimapi.MethodMemory, shimapi.Memory{Bytes: 48 << 20}},
		{fakeengine.CallSave, []shimapi.Method{shimapi.MethodStart, shimapi.MethodPause}, shimapi.MethodSave, shimapi.File{Path: "/nowhere/state"}},
	} {
		t.Run(string(c.call), func(t *testing.T) {
			r := boot(t)
			for _, m := range c.before {
				r.ask(m, nil, nil)
			}
			before := r.info()
			r.fault(c.call, words)
			err := r.client.Call(t.Context(), c.method, c.params, nil)
			var said *shimapi.Error
			require.ErrorAs(t, err, &said)
			assert.Equal(t, &shimapi.Error{Code: shimapi.CodeFailed, Text: words}, said)
			assert.Equal(t, before, r.info())
			r.clear()
			if c.call != fakeengine.CallRestore {
				params := c.params
				if c.call == fakeengine.CallSave {
					params = shimapi.File{Path: r.path("state")}
				}
				r.ask(c.method, params, nil)
			}
		})
	}
	t.Run("new", func(t *testing.T) {
		r := boot(t, func(c *shimConfig) { fail(t, c, fakeengine.CallNew, words) })
		<-r.done
		require.ErrorContains(t, r.err, words)
	})
}

// TestInternalError is the framework that stops a VM by itself.
func TestInternalError(t *testing.T) {
	made := make(chan *fakeengine.Machine, 1)
	r := boot(t, func(c *shimConfig) { c.Engine = tapped{c.Engine, made} })
	m := <-made
	r.ask(shimapi.MethodStart, nil, nil)
	r.ask(shimapi.MethodEvents, shimapi.After{}, nil)
	m.LoseNet("52:54:00:00:00:01", errors.New("the interface is gone"))
	events := until(t, r.client, shimapi.EventNetwork)
	assert.Equal(t, "52:54:00:00:00:01: the interface is gone", events[len(events)-1].Detail)
	m.Fail(errors.New("the VM has crashed"))
	events = until(t, r.client, shimapi.EventEnded)
	last := events[len(events)-1]
	assert.Equal(t, shimapi.ReasonInternal, last.Reason)
	assert.Equal(t, "the VM has crashed", last.Detail)
	i := r.info()
	assert.Equal(t, shimapi.PhaseEnded, i.Phase)
	assert.Equal(t, "the VM has crashed", i.Problem)
	var said *shimapi.Error
	require.ErrorAs(t, r.client.Call(t.Context(), shimapi.MethodResume, nil, nil), &said)
	assert.Equal(t, shimapi.CodeBusy, said.Code)
}

// TestWithoutSaving is a host, or a VM, whose state cannot be saved: why is what the
// framework says.
func TestWithoutSaving(t *testing.T) {
	r := boot(t, func(c *shimConfig) {
		c.Engine = fakeengine.New(fakeengine.Config{Without: []shimconfig.Feature{shimconfig.FeatureSave, shimconfig.FeatureMachine, shimconfig.FeatureStop}})
	})
	var report shimconfig.Report
	r.ask(shimapi.MethodReport, nil, &report)
	assert.NotEmpty(t, report.Support.NoSave)
	assert.Empty(t, report.Machine)
	r.ask(shimapi.MethodStart, nil, nil)
	r.ask(shimapi.MethodPause, nil, nil)
	for _, m := range []shimapi.Method{shimapi.MethodSave, shimapi.MethodRestore} {
		var said *shimapi.Error
		require.ErrorAs(t, r.client.Call(t.Context(), m, shimapi.File{Path: r.path("state")}, nil), &said)
		assert.Equal(t, &shimapi.Error{Code: shimapi.CodeUnsupported, Text: report.Support.NoSave}, said)
	}
	r.ask(shimapi.MethodStop, nil, nil) // which the framework of macOS 11 cannot
	<-r.done
	assert.NoError(t, r.err)
}
