package qemu

import (
	"log/slog"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/hypervisor"
	"vmfs/backends/qemu/qmp/qmptest"
)

// TestEvents plays events as QEMU's documentation has them, also those that take
// hardware to see, and looks at what the handle makes of them.
func TestEvents(t *testing.T) {
	at := `"timestamp": {"seconds": 1700000000, "microseconds": 250000}`
	event := func(name, data string) string {
		return `S: {` + at + `, "event": "` + name + `", "data": ` + data + "}\n"
	}
	script := qmptest.Greeting + status("running") + // what the handle asks first
		event("POWERDOWN", "{}") +
		event("WATCHDOG", `{"action": "pause"}`) + event("STOP", "{}") + status("watchdog") +
		event("RESUME", "{}") +
		event("WATCHDOG", `{"action": "reset"}`) + event("RESET", `{"guest": true, "reason": "guest-reset"}`) + status("running") +
		event("GUEST_CRASHLOADED", `{"action": "run"}`) +
		event("GUEST_PANICKED", `{"action": "pause", "info": {"type": "hyper-v", "arg1": 7, "arg2": 12345678901}}`) +
		event("STOP", "{}") + status("guest-panicked") +
		event("RESUME", "{}") +
		event("BLOCK_IO_ERROR", `{"device": "", "node-name": "disk0", "operation": "read", "action": "report", "reason": "Input/output error"}`) +
		event("NIC_RX_FILTER_CHANGED", `{"path": "x"}`) +
		event("NETDEV_STREAM_DISCONNECTED", `{"netdev-id": "net1"}`) +
		event("STOP", "{}") + status("internal-error") +
		event("RESUME", "{}") +
		event("VMFS_EVENTS_LOST", `{"n": 3}`) + status("running") +
		event("SUSPEND", "{}") + event("WAKEUP", "{}") +
		event("STOP", "{}") + status("a-state-of-the-future") +
		event("SHUTDOWN", `{"guest": false, "reason": "host-signal"}`) + event("STOP", "{}")

	path := filepath.Join(shortDir(t), SocketName)
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	defer l.Close()
	played := make(chan error, 1)
	go func() {
		nc, err := l.Accept()
		if err == nil {
			err = qmptest.NewPlayer(nc.(*net.UnixConn)).Play(script)
			_ = nc.Close()
			_ = l.Close() // nobody is there any more
		}
		played <- err
	}()
	vm, err := New(Config{Log: slog.New(slog.NewTextHandler(t.Output(), nil))}).Open(path)
	require.NoError(t, err)
	defer vm.Close()
	var got []hypervisor.Event
	for e := range vm.Events() {
		assert.Equal(t, time.Unix(1700000000, 250000000), e.Time)
		e.Time = time.Time{}
		got = append(got, e)
	}
	require.NoError(t, <-played)
	const paused, running = hypervisor.StatePaused, hypervisor.StateRunning
	detail := func(words ...string) (d []hypervisor.Detail) {
		for i := 0; i < len(words); i += 2 {
			d = append(d, hypervisor.Detail{Key: words[i], Value: words[i+1]})
		}
		return d
	}
	assert.Equal(t, []hypervisor.Event{
		{Kind: hypervisor.EventPowerdown},
		{Kind: hypervisor.EventWatchdog, State: paused, Reason: "watchdog", Detail: detail("action", "pause")},
		{Kind: hypervisor.EventPaused, State: paused, Reason: "watchdog"},
		{Kind: hypervisor.EventRunning, State: running},
		{Kind: hypervisor.EventWatchdog, Detail: detail("action", "reset")},
		{Kind: hypervisor.EventReset, State: running, Detail: detail("by", "guest-reset", "guest", "true")},
		{Kind: hypervisor.EventPanicked, Detail: detail("action", "run")},
		{Kind: hypervisor.EventPanicked, State: paused, Reason: "guest-panicked", Detail: detail("arg1", "7", "arg2", "12345678901", "type", "hyper-v")},
		{Kind: hypervisor.EventPaused, State: paused, Reason: "guest-panicked"},
		{Kind: hypervisor.EventRunning, State: running},
		{Kind: hypervisor.EventIOError, Detail: detail("disk", "disk0", "operation", "read", "action", "report", "error", "Input/output error")},
		{Kind: hypervisor.EventNetwork, Detail: detail("network", "net1")},
		{Kind: hypervisor.EventPaused, State: paused, Reason: "internal-error"},
		{Kind: hypervisor.EventRunning, State: running},
		{Kind: hypervisor.EventLost, State: running, Detail: detail("n", "3")},
		{Kind: hypervisor.EventPaused, State: paused, Reason: "suspended"},
		{Kind: hypervisor.EventRunning, State: running},
		{Kind: hypervisor.EventPaused, State: paused, Reason: "a-state-of-the-future"},
		{Kind: hypervisor.EventShutdown, State: hypervisor.StateShutdown, Reason: "host-signal"},
	}, got)
}

// TestResumeOfASleepingGuest wakes it instead.
func TestResumeOfASleepingGuest(t *testing.T) {
	path := filepath.Join(shortDir(t), SocketName)
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	defer l.Close()
	played := make(chan error, 1)
	go func() {
		nc, err := l.Accept()
		if err == nil {
			err = qmptest.NewPlayer(nc.(*net.UnixConn)).Play(qmptest.Greeting + status("suspended") +
				`S: {"timestamp": {"seconds": 1, "microseconds": 0}, "event": "POWERDOWN"}` + "\nC: system_wakeup" + ok)
		}
		played <- err
	}()
	vm, err := New(Config{Log: slog.New(slog.NewTextHandler(t.Output(), nil))}).Open(path)
	require.NoError(t, err)
	defer vm.Close()
	<-vm.Events() // by now the handle knows
	require.NoError(t, vm.Resume(testContext(t)))
	require.NoError(t, <-played)
}
