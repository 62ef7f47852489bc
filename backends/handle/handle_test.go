package handle_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/handle"
	"vmfs/backends/hypervisor"
	"vmfs/backends/rundir"
	"vmfs/backends/stored"
)

// A record is that of the tests' VMM.
type record struct{ rundir.Record }

// able is what a VM without disks can do.
type able struct{}

func (able) Capabilities(c hypervisor.VMConfig) hypervisor.Capabilities {
	return hypervisor.Capabilities{SupportsPause: true, SupportsSnapshot: len(c.Disks) == 0}
}

// open makes a handle on a VM that was started with rec, and one that a server has of it which comes
// after.
func open(t *testing.T, rec *record) (h *handle.Handle, next func() *handle.Handle) {
	t.Helper()
	run := filepath.Join(t.TempDir(), "run")
	require.NoError(t, os.Mkdir(run, 0o700))
	dir, err := (&rundir.Kind{Record: "r.json", Oldest: 1, Newest: 1}).Of(filepath.Join(run, "x.sock"))
	require.NoError(t, err)
	log := slog.New(slog.DiscardHandler)
	made := func(rec *record) *handle.Handle {
		return handle.New(handle.Config{
			Dir: dir, Record: rundir.Keep(dir, rec), Able: able{}, Log: log, HangUp: func() error { return nil },
		})
	}
	h = made(rec)
	return h, func() *handle.Handle {
		require.NoError(t, h.Close())
		return made(rundir.Find[record](dir, log))
	}
}

func started(c hypervisor.VMConfig) *record {
	return &record{rundir.Record{Config: stored.Config{VMConfig: c}}}
}

// events closes a handle and returns what it told.
func events(t *testing.T, h *handle.Handle) (told []hypervisor.Event) {
	t.Helper()
	h.Queue.End(net.ErrClosed)
	for e := range h.Events() {
		e.Time = time.Time{}
		told = append(told, e)
	}
	require.NoError(t, h.Close())
	return told
}

func TestClose(t *testing.T) {
	h, _ := open(t, nil)
	assert.Equal(t, "run", h.Name)
	ended := make(chan error, 1)
	require.True(t, h.Spawn(func() { <-h.Life.Done(); ended <- h.Life.Err() }))
	require.NoError(t, h.Close())
	require.ErrorIs(t, <-ended, context.Canceled)
	assert.False(t, h.Spawn(func() { panic("it is closed") }))
	require.ErrorIs(t, h.Saver(nil, nil).Spawn(nil), net.ErrClosed)
	require.ErrorIs(t, h.Ask(func(ctx context.Context) error { return ctx.Err() }), context.Canceled)
	_, open := <-h.Events()
	assert.False(t, open)
}

// TestNextServer is what a server learns from the one before.
func TestNextServer(t *testing.T) {
	h, next := open(t, started(hypervisor.VMConfig{Name: "web", Disks: make([]hypervisor.DiskConfig, 1)}))
	assert.Equal(t, "web", h.Name)
	assert.Equal(t, []hypervisor.Capability{hypervisor.CanPause}, h.Capabilities().Words())
	assert.False(t, h.Ran())
	h.SetRan()
	h.Hold(true)
	assert.Equal(t, handle.ReasonSnapshot, h.Reason(hypervisor.StatePaused, "io-error"))
	h = next()
	assert.Equal(t, "web", h.Name)
	assert.True(t, h.Ran())
	assert.True(t, h.Held())
	assert.Equal(t, handle.ReasonSnapshot, h.Reason(hypervisor.StatePaused, ""))
	assert.Empty(t, h.Reason(hypervisor.StateRunning, ""))
	h.Hold(false)
	assert.False(t, h.Held())
	assert.Equal(t, "io-error", h.Reason(hypervisor.StatePaused, "io-error"))
	require.NoError(t, h.Close())
}

// TestEnd is told once.
func TestEnd(t *testing.T) {
	h, _ := open(t, nil)
	quits := make(chan struct{}, 2)
	quit := func(context.Context) error { quits <- struct{}{}; return hypervisor.ErrHypervisorNotRunning }
	e := hypervisor.Event{Kind: hypervisor.EventShutdown, State: hypervisor.StateShutdown, Reason: handle.ReasonGuestShutdown}
	for range 2 {
		again := e
		h.GuestEnded(&again, quit)
		h.Tell(again)
	}
	h.VMMEnded("signal: killed")
	assert.True(t, h.Ended())
	assert.Equal(t, handle.ReasonGuestShutdown, h.Reason(hypervisor.StateShutdown, "host-signal"))
	assert.Equal(t, []hypervisor.Event{e}, events(t, h))
	assert.Len(t, quits, 1)

	h, _ = open(t, nil)
	h.VMMEnded("signal: killed")
	h.GuestEnded(&e, quit)
	h.Tell(e)
	assert.Equal(t, []hypervisor.Event{{
		Kind: hypervisor.EventShutdown, State: hypervisor.StateShutdown, Reason: hypervisor.ReasonVMMDied,
		Detail: []hypervisor.Detail{{Key: "exit", Value: "signal: killed"}},
	}}, events(t, h))
	assert.Len(t, quits, 1)
}

// TestOrder is a VMM that has gone before it is told to.
func TestOrder(t *testing.T) {
	gone := func() error { return hypervisor.ErrHypervisorNotRunning }
	h, _ := open(t, nil)
	require.ErrorIs(t, h.Order(gone), hypervisor.ErrHypervisorNotRunning, "nobody was told")
	assert.False(t, h.Ordered())
	h.Info(hypervisor.StateRunning, "", nil)
	require.ErrorIs(t, h.Order(gone), hypervisor.ErrHypervisorNotRunning)
	memory := int64(5)
	assert.Equal(t, &hypervisor.VMInfo{State: hypervisor.StateShutdown, Reason: "x", MemoryActualSize: &memory}, h.Info(hypervisor.StateShutdown, "x", &memory))
	broken := errors.New("broken")
	require.ErrorIs(t, h.Order(func() error { return broken }), broken)
	require.NoError(t, h.Order(gone), "he was told of the end, and is late")
	assert.True(t, h.Ordered())
	require.ErrorIs(t, h.Order(gone), hypervisor.ErrHypervisorNotRunning, "once")
	require.NoError(t, h.Close())
}

// TestWithoutARecord is a VM of which its VMM alone knows.
func TestWithoutARecord(t *testing.T) {
	h, _ := open(t, nil)
	defer h.Close()
	_, err := h.Known()
	require.ErrorContains(t, err, "r.json")
	_, err = h.Vsock()
	require.Error(t, err)
	err = h.Grow(t.Context(), 0, 1<<20, func() error { panic("which disk?") })
	require.ErrorIs(t, err, hypervisor.ErrNotSupported)
	h.SetRan()
	assert.True(t, h.Ran())
	assert.False(t, h.Held())
}

func TestVsock(t *testing.T) {
	for _, cid := range []int64{0, 7} {
		h, _ := open(t, started(hypervisor.VMConfig{VsockCID: cid, VsockSocket: "/v"}))
		c, err := h.Vsock()
		if cid == 0 {
			require.ErrorIs(t, err, hypervisor.ErrNotSupported)
		} else {
			require.NoError(t, err)
			assert.Equal(t, "/v", c.VsockSocket)
		}
		require.NoError(t, h.Close())
	}
}

// TestGrow makes a disk larger, of which the record tells afterwards.
func TestGrow(t *testing.T) {
	image := filepath.Join(t.TempDir(), "disk")
	require.NoError(t, os.WriteFile(image, nil, 0o600))
	require.NoError(t, os.Truncate(image, 1<<20))
	h, next := open(t, started(hypervisor.VMConfig{Disks: []hypervisor.DiskConfig{{Path: image, Size: 1 << 20}}}))
	release, err := h.Gate.Enter(t.Context(), "a snapshot", false)
	require.NoError(t, err)
	require.ErrorIs(t, h.Grow(t.Context(), 0, 2<<20, nil), hypervisor.ErrBusy)
	release()
	broken := errors.New("broken")
	require.ErrorIs(t, h.Grow(t.Context(), 0, 2<<20, func() error { return broken }), broken)
	size := func(h *handle.Handle) int64 {
		rec, err := h.Known()
		require.NoError(t, err)
		return rec.Config.Disks[0].Size
	}
	assert.Equal(t, int64(1<<20), size(h))
	require.NoError(t, h.Grow(t.Context(), 0, 2<<20, func() error { return os.Truncate(image, 2<<20) }))
	require.ErrorIs(t, h.Grow(t.Context(), 0, 1<<20, nil), hypervisor.ErrInvalid)
	h = next()
	assert.Equal(t, int64(2<<20), size(h))
	require.NoError(t, h.Close())
}

// TestTarget has one memory target set at a time.
func TestTarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, _ := open(t, nil)
		defer h.Close()
		set := func(_ context.Context, bytes int64) (int64, error) { return bytes, nil }
		begun := make(chan struct{})
		go func() {
			_, err := h.Target(t.Context(), 1, func(ctx context.Context, _ int64) (int64, error) {
				close(begun)
				time.Sleep(time.Minute)
				return 0, nil
			})
			assert.NoError(t, err)
		}()
		<-begun
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := h.Target(short, 2, set)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		target, err := h.Target(t.Context(), 3, set)
		require.NoError(t, err)
		assert.Equal(t, int64(3), target)
		release, err := h.Gate.Hold("a snapshot", false)
		require.NoError(t, err)
		_, err = h.Target(t.Context(), 4, set)
		require.ErrorIs(t, err, hypervisor.ErrBusy)
		release()
	})
}
