package qemu

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/handle"
	"vmfs/backends/hypervisor"
	"vmfs/backends/qemu/qmp"
	"vmfs/backends/qemu/qmp/qmptest"
	"vmfs/internal/queue"
)

// dialogue connects to a QEMU that plays the script.
func dialogue(t *testing.T, script string) *qmp.Conn {
	t.Helper()
	path := filepath.Join(shortDir(t), "s")
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	defer l.Close()
	conn, err := qmp.Dial(testContext(t), path)
	require.NoError(t, err)
	nc, err := l.Accept()
	require.NoError(t, err)
	played := make(chan error, 1)
	go func() { played <- qmptest.NewPlayer(nc.(*net.UnixConn)).Play(script) }()
	conn.Start()
	t.Cleanup(func() {
		assert.NoError(t, <-played)
		_ = conn.Close()
		_ = nc.Close()
	})
	require.NoError(t, conn.Ready(testContext(t)))
	return conn
}

// greeting is that of a version of QEMU.
func greeting(major, minor string) string {
	s := strings.Replace(qmptest.Greeting, `"major": 7`, `"major": `+major, 1)
	return strings.Replace(s, `"minor": 2`, `"minor": `+minor, 1)
}

const (
	ok      = "\nS: {\"return\": {}, \"id\": ${}}\n"
	setup   = `S: {"timestamp": {"seconds": 1, "microseconds": 2}, "event": "MIGRATION", "data": {"status": "setup"}}` + "\n"
	active  = `S: {"timestamp": {"seconds": 1, "microseconds": 3}, "event": "MIGRATION", "data": {"status": "active"}}` + "\n"
	done    = `S: {"timestamp": {"seconds": 2, "microseconds": 4}, "event": "MIGRATION", "data": {"status": "completed"}}` + "\n"
	failed  = `S: {"timestamp": {"seconds": 2, "microseconds": 4}, "event": "MIGRATION", "data": {"status": "failed"}}` + "\n"
	asked   = "C: query-status\n" + `S: {"return": {"status": "%", "running": false}, "id": ${}}` + "\n"
	oldCaps = `C: migrate-set-capabilities {"capabilities": [{"capability": "events", "state": true}]}` + ok
	newCaps = `C: migrate-set-capabilities {"capabilities": [{"capability": "events", "state": true}, {"capability": "mapped-ram", "state": true}]}` + ok
	params  = `C: migrate-set-parameters {"max-bandwidth": 1125899906842624}` + ok
)

func status(s string) string { return strings.Replace(asked, "%", s, 1) }

// TestTransfer plays what QEMU's documentation says of the versions that are not
// installed here beside what the installed one does.
func TestTransfer(t *testing.T) {
	for name, c := range map[string]struct {
		script string
		in     bool
		mapped bool
		says   string
	}{
		"to a file, 7.2": {
			script: greeting("7", "2") + oldCaps + params +
				`C: getfd {"fdname": "snapshot"}` + "\nF: 1" + ok +
				`C: migrate {"uri": "fd:snapshot"}` + "\n" + setup + `S: {"return": {}, "id": ${}}` + "\n" + active + done +
				status("finish-migrate") + status("finish-migrate") + status("postmigrate"),
		},
		"from a file, 7.2": {
			in: true,
			script: greeting("7", "2") + oldCaps +
				`C: getfd {"fdname": "snapshot"}` + "\nF: 1" + ok +
				`C: migrate-incoming {"uri": "fd:snapshot"}` + "\n" + setup + `S: {"return": {}, "id": ${}}` + "\n" + active + done,
		},
		"to a file, 9.0": {
			mapped: true,
			script: greeting("9", "0") + newCaps + params +
				`C: add-fd {"opaque": "snapshot"}` + "\nF: 1\n" + `S: {"return": {"fdset-id": 0, "fd": 27}, "id": ${}}` + "\n" +
				`C: migrate {"uri": "file:/dev/fdset/0"}` + ok + setup + active + done +
				`C: remove-fd {"fdset-id": 0}` + ok + status("postmigrate"),
		},
		"from a file, 9.0": {
			in: true, mapped: true,
			script: greeting("9", "0") + newCaps +
				`C: add-fd {"opaque": "snapshot"}` + "\nF: 1\n" + `S: {"return": {"fdset-id": 0, "fd": 27}, "id": ${}}` + "\n" +
				`C: migrate-incoming {"uri": "file:/dev/fdset/0"}` + ok + setup + active + done +
				`C: remove-fd {"fdset-id": 0}` + ok,
		},
		"refused": {
			script: greeting("7", "2") + oldCaps + params +
				`C: getfd {"fdname": "snapshot"}` + ok +
				`C: migrate {"uri": "fd:snapshot"}` + "\n" +
				`S: {"id": ${}, "error": {"class": "GenericError", "desc": "State blocked by non-migratable device"}}` + "\n" +
				`C: closefd {"fdname": "snapshot"}` + ok,
			says: "non-migratable device",
		},
		"failed": {
			script: greeting("7", "2") + oldCaps + params +
				`C: getfd {"fdname": "snapshot"}` + ok +
				`C: migrate {"uri": "fd:snapshot"}` + ok + setup + active + failed +
				"C: query-migrate\n" + `S: {"return": {"status": "failed", "error-desc": "Unable to write to file: No space left on device"}, "id": ${}}` + "\n" +
				status("postmigrate"),
			says: "No space left on device",
		},
	} {
		t.Run(name, func(t *testing.T) {
			conn := dialogue(t, c.script)
			file, err := os.Create(filepath.Join(t.TempDir(), "memory"))
			require.NoError(t, err)
			defer file.Close()
			tr := &transfer{conn: conn, file: file, mapped: c.mapped, out: !c.in}
			err = tr.run(testContext(t), nil)
			if c.says == "" {
				require.NoError(t, err)
			} else {
				require.ErrorContains(t, err, c.says)
			}
		})
	}
}

func TestCancelledTransfer(t *testing.T) {
	ctx, cancel := context.WithCancel(testContext(t))
	conn := dialogue(t, greeting("7", "2")+oldCaps+params+
		`C: getfd {"fdname": "snapshot"}`+ok+
		`C: migrate {"uri": "fd:snapshot"}`+ok+setup+active+
		"C: migrate_cancel"+ok+
		"C: query-migrate\n"+`S: {"return": {"status": "cancelling"}, "id": ${}}`+"\n"+
		"C: query-migrate\n"+`S: {"return": {"status": "cancelled"}, "id": ${}}`+"\n"+
		status("paused"))
	sub := conn.Subscribe()
	go func() {
		for {
			ev, err := sub.Next(testContext(t))
			if err != nil || ev.Data["status"] == "active" {
				cancel()
				return
			}
		}
	}()
	file, err := os.Create(filepath.Join(t.TempDir(), "memory"))
	require.NoError(t, err)
	defer file.Close()
	tr := &transfer{conn: conn, file: file, out: true}
	require.ErrorIs(t, tr.run(ctx, nil), context.Canceled)
}

func TestVersionsOfTransfers(t *testing.T) {
	var v qmp.Version
	for _, c := range []struct {
		major, minor int
		mapsRAM      bool
	}{{7, 2, false}, {8, 2, false}, {9, 0, true}, {10, 1, true}} {
		v.QEMU.Major, v.QEMU.Minor = c.major, c.minor
		assert.Equal(t, c.mapsRAM, mapsRAM(v), "%d.%d", c.major, c.minor)
	}
}

// TestProgress is how an event of a snapshot's progress comes from QEMU's words.
func TestProgress(t *testing.T) {
	vm := &VM{conn: dialogue(t, greeting("7", "2")+"C: query-migrate\n"+
		`S: {"return": {"status": "active", "ram": {"transferred": 5, "remaining": 300, "total": 400, "mbps": 8.5}}, "id": ${}}`+"\n"+
		"C: query-migrate\n"+`S: {"return": {"status": "setup"}, "id": ${}}`+"\n")}
	vm.Handle = &handle.Handle{Queue: queue.New(2, hypervisor.LostEvents)}
	vm.tellProgress(testContext(t))
	vm.tellProgress(testContext(t)) // of nothing yet, nothing is told
	e, ok := vm.Queue.TryNext()
	require.True(t, ok)
	assert.Equal(t, hypervisor.EventSnapshot, e.Kind)
	assert.Equal(t, []hypervisor.Detail{{Key: "done", Value: "100"}, {Key: "total", Value: "400"}, {Key: "rate", Value: "1062500"}}, e.Detail)
	_, ok = vm.Queue.TryNext()
	assert.False(t, ok)
}
