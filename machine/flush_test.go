package machine

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/hypervisor"
	"vmfs/backends/process"
	"vmfs/internal/wait"
)

// hang stops a process, and returns when all of its threads stand still.
func hang(t *testing.T, p process.Process) {
	t.Helper()
	require.NoError(t, p.Signal(syscall.SIGSTOP))
	require.NoError(t, wait.Until(within(t), time.Millisecond, func() (bool, error) {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.PID))
		for _, thread := range threads {
			b, err := os.ReadFile(thread)
			if err != nil || !strings.Contains(string(b), ") T ") {
				return false, nil
			}
		}
		return true, err
	}))
}

// Every command ends soon after its request does, whatever the VMM does.
func TestRequestsEnd(t *testing.T) {
	dir := stateDir(t)
	onlyFake(t, dir)
	h := vzHost(t, dir, func(o *Options) { o.Timeouts = Timeouts{Verb: patience, Stop: patience} })
	v := started(t, h, "web", "")
	p, err := process.Find(v.Status().PID)
	require.NoError(t, err)
	hang(t, p)
	for _, vb := range Verbs() {
		args := map[string][]string{
			"snapshot": {"one"}, "restore": {"one"}, "memory": {"1G"}, "set": {"memory=1G"}, "wait": {"created"},
		}[vb.Name]
		switch vb.Name {
		case "kill", "cancel", "reset", "nmi": // need no answer, or cannot be done here
			continue
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(50*time.Millisecond, cancel)
		begin := time.Now()
		err := vb.Run(ctx, v, args)
		assert.Less(t, time.Since(begin), patience/2, vb.Name)
		assert.Error(t, err, vb.Name)
		if vb.Takes(v.Status()) {
			assert.ErrorIs(t, err, context.Canceled, vb.Name)
			assert.ErrorContains(t, err, "cancelled by the client", vb.Name)
		}
		assert.Empty(t, v.Status().Busy, vb.Name)
	}
	assert.EqualValues(t, 512<<20, v.Config().VMConfig().MemoryBytes, "what was cancelled is not kept")

	// A VM whose guest has ended and whose VMM does not.
	v.update(func() { v.setState(hypervisor.StateShutdown, "guest-shutdown") })
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	err = v.Delete(ctx)
	assert.ErrorIs(t, err, context.Canceled)
	assert.ErrorContains(t, err, "machine: delete web: cancelled by the client")
	_, ok := h.VM("web")
	assert.True(t, ok)

	// What was cancelled before it began does nothing.
	require.NoError(t, os.MkdirAll(v.snapshotDir("one"), 0o700))
	assert.ErrorIs(t, v.DeleteSnapshot(ctx, "one"), context.Canceled)
	assert.DirExists(t, v.snapshotDir("one"))
	require.NoError(t, v.DeleteSnapshot(within(t), "one"))
	left, err := filepath.Glob(filepath.Join(v.Dir(), snapshotsDir, ".*"))
	require.NoError(t, err)
	assert.Empty(t, left)
	require.NoError(t, p.Signal(syscall.SIGKILL))
}

// A guest's memory that nobody has told is not known, rather than none.
func TestMemoryUnknown(t *testing.T) {
	dir := stateDir(t)
	onlyFake(t, dir)
	h := vzHost(t, dir)
	v := started(t, h, "web", "")
	require.NoError(t, v.Status().MemoryErr)
	p, err := process.Find(v.Status().PID)
	require.NoError(t, err)
	hang(t, p)
	require.NoError(t, h.Close())
	h = vzHost(t, dir, func(o *Options) { o.Timeouts = Timeouts{Adopt: 50 * time.Millisecond} })
	v, _ = h.VM("web")
	assert.ErrorIs(t, v.Status().MemoryErr, context.DeadlineExceeded)
	require.NoError(t, p.Signal(syscall.SIGCONT))
	await(t, v, "its memory", func(s Status) bool { return s.MemoryErr == nil && s.MemoryActual > 0 })

	v.mu.Lock()
	s := v.session
	v.mu.Unlock()
	v.update(func() {
		v.status.MemoryErr = errMemoryUnasked
		s.takeInfo(hypervisor.VMInfo{State: hypervisor.StateRunning}, s.told)
	})
	assert.ErrorIs(t, v.Status().MemoryErr, hypervisor.ErrNotSupported)
	require.NoError(t, v.Kill(within(t)))
	assert.NoError(t, v.Status().MemoryErr)
	assert.Zero(t, v.Status().MemoryActual)
}
