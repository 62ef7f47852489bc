package qemu

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/hypervisor"
	"vmfs/backends/qemu/qmp"
	"vmfs/backends/qemu/qmp/qmptest"
	"vmfs/guest"
	"vmfs/guest/guesttest"
	"vmfs/vsock"
)

// TestVsock gives a guest a vsock device of another process's kind, and keeps it
// over snapshots, of a VM that runs and of one that stands still, and over restores.
func TestVsock(t *testing.T) {
	t.Parallel() // with the other tests that wait for a guest
	s := newTestStarter(t)

	dir := shortDir(t)
	config := bare(dir)
	config.KernelPath, config.InitrdPath = guesttest.Fast(t, guest.Options{})
	config.KernelArgs = "quiet no_timer_check"
	config.MemoryBytes = 128 * mib
	config.VsockCID, config.VsockSocket = 77, filepath.Join(dir, "vsock.sock")
	v := startTest(t, s, dir, config)
	assert.True(t, v.Capabilities().SupportsVsock)
	v.ready(0)

	// The guest serves nothing: that it refuses shows that it is there.
	refuses := func() {
		t.Helper()
		dialer := &vsock.Hybrid{Socket: config.VsockSocket, Timeout: patience}
		require.EventuallyWithT(t, func(c *assert.CollectT) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			_, err := dialer.DialVsock(ctx, 4242)
			assert.ErrorIs(c, err, vsock.ErrRefused)
		}, patience, 100*time.Millisecond)
	}
	refuses()
	var snaps []string
	save := func(want hypervisor.VMState) {
		t.Helper()
		snap := filepath.Join(t.TempDir(), "snap")
		require.NoError(t, v.Snapshot(testContext(t), snap), "of a %s VM", want)
		assert.Equal(t, want, v.info().State)
		snaps = append(snaps, snap)
	}
	for range 2 {
		save(hypervisor.StateRunning)
		refuses()
	}
	// A guest that stands still does so all the while, and finds out later.
	mark := v.events.len()
	require.NoError(t, v.Pause(testContext(t)))
	v.events.await(t, mark, "pause", kind(hypervisor.EventPaused))
	mark, from := v.events.len(), v.serialSize()
	save(hypervisor.StatePaused)
	save(hypervisor.StatePaused)
	v.events.mu.Lock()
	for _, e := range v.events.list[mark:] {
		assert.Empty(t, e.State, "%+v", e)
	}
	v.events.mu.Unlock()
	assert.Equal(t, from, v.serialSize(), "the guest has printed something")
	require.NoError(t, v.Resume(testContext(t)))
	refuses()
	require.NoError(t, v.Shutdown(testContext(t)))
	require.NoError(t, v.Child.Await(testContext(t), patience))

	for _, snap := range []string{snaps[3], snaps[0]} {
		_, hv, err := s.RestoreVM(testContext(t), nil, "", filepath.Join(dir, SocketName), snap)
		require.NoError(t, err)
		v = ended(t, s, dir, config, hv.(*VM))
		assert.Equal(t, hypervisor.StatePaused, v.info().State)
		save(hypervisor.StatePaused)
		require.NoError(t, v.Resume(testContext(t)))
		refuses()
		save(hypervisor.StateRunning)
		refuses()
		v.end()
		require.NoError(t, v.VM.dir.Clear(), "what the killed QEMU left")
	}
}

// TestVsockWithoutItsGuest saves VMs whose guest has no driver of anything: one that
// runs and one that stands still.
func TestVsockWithoutItsGuest(t *testing.T) {
	s := newTestStarter(t)
	dir := shortDir(t)
	config := bare(dir)
	config.VsockCID, config.VsockSocket = 77, filepath.Join(dir, "vsock.sock")
	v := startTest(t, s, dir, config)
	require.NoError(t, v.Snapshot(testContext(t), filepath.Join(t.TempDir(), "snap")))
	assert.Equal(t, hypervisor.StateRunning, v.info().State)
	require.NoError(t, v.Pause(testContext(t)))
	// A device that is not there does not keep it from being saved, and is there afterwards.
	require.NoError(t, v.eject(testContext(t)))
	require.NoError(t, v.Snapshot(testContext(t), filepath.Join(t.TempDir(), "snap")))
	there, err := v.hasVsock(testContext(t))
	require.NoError(t, err)
	assert.True(t, there)
	// A snapshot that fails has it plugged in again too.
	require.Error(t, v.Snapshot(testContext(t), filepath.Join(smallFS(t, "4k"), "snap")))
	there, err = v.hasVsock(testContext(t))
	require.NoError(t, err)
	assert.True(t, there)
	assert.Equal(t, hypervisor.StatePaused, v.info().State)
}

// TestEject plays monitors that answer oddly. What the guest had written to the
// port of addresses is there afterwards in any case.
func TestEject(t *testing.T) {
	const port = `{"return": [{"bus": 0, "devices": [{"qdev_id": "nic0", "bus": 0, "slot": 1, "function": 0}, {"qdev_id": "vsockport", "bus": 0, "slot": 3, "function": 0}]}], "id": ${}}`
	say := func(line, answer string) string {
		return `C: human-monitor-command {"command-line": "` + line + `"}` + "\nS: " + `{"return": "` + answer + `", "id": ${}}` + "\n"
	}
	read := func(register, value string) string {
		return say("o /w 0xcf8 0x800018"+register, "") + say("i /w 0xcfc", "portl[0x0cfc] = 0x"+value+`\r\n`)
	}
	begun := say("i /w 0xcf8", `portl[0x0cf8] = 0x80001234\r\n`)
	restored := say("o /w 0xcf8 0x80001234", "")
	for name, c := range map[string]struct{ script, says string }{
		"as it should be": {script: begun + read("34", "00000040") + read("40", "00005405") + read("54", "01420010") + read("6c", "004803f1") +
			say("o /w 0xcf8 0x8000186c", "") + say("o /h 0xcfc 0x7f1", "") +
			`S: {"timestamp": {"seconds": 1, "microseconds": 2}, "event": "DEVICE_DELETED", "data": {"device": "vsock0", "path": "/machine/peripheral/vsock0"}}` + "\n" +
			say("o /w 0xcf8 0x8000186c", "") + say("o /h 0xcfc 0x3f1", "") + restored},
		"no capability": {script: begun + read("34", "00000040") + read("40", "00000005") + restored, says: "has no slot"},
		"a ring":        {script: begun + read("34", "00000040") + strings.Repeat(read("40", "00004005"), 48) + restored, says: "has no slot"},
		"another word":  {script: begun + say("o /w 0xcf8 0x80001834", "unknown command: 'o'") + restored, says: "unknown command"},
		"no ports":      {script: say("i /w 0xcf8", "unknown command: 'i'"), says: "unknown command"},
	} {
		t.Run(name, func(t *testing.T) {
			vm := &VM{conn: dialogue(t, greeting("7", "2")+"C: query-pci\nS: "+port+"\n"+c.script)}
			err := vm.eject(testContext(t))
			if c.says == "" {
				require.NoError(t, err)
			} else {
				require.ErrorContains(t, err, c.says)
			}
		})
	}
	t.Run("no port", func(t *testing.T) {
		vm := &VM{conn: dialogue(t, greeting("7", "2")+"C: query-pci\n"+`S: {"return": [{"bus": 0, "devices": []}], "id": ${}}`+"\n")}
		require.ErrorContains(t, vm.eject(testContext(t)), "no port vsockport")
	})
}

// TestReplugVsock gives the device back to a QEMU that holds its character device
// for a while, as a busy one does.
func TestReplugVsock(t *testing.T) {
	const (
		out       = `C: qom-list {"path": "/machine/peripheral"}` + "\n" + `S: {"return": [{"name": "type", "type": "string"}], "id": ${}}` + "\n"
		in        = `C: qom-list {"path": "/machine/peripheral"}` + "\n" + `S: {"return": [{"name": "` + idVsock + `", "type": "child<vhost-user-vsock-pci>"}], "id": ${}}` + "\n"
		connected = "C: query-chardev\n" + `S: {"return": [{"label": "` + idVsockSock + `", "filename": "unix:/s,server=on"}], "id": ${}}` + "\n"
		plug      = connected + `C: device_add {"driver": "vhost-user-vsock-pci", "id": "` + idVsock + `", "chardev": "` + idVsockSock + `", "bus": "` + idVsockPort + `"}` + "\n"
		inUse     = plug + `S: {"error": {"class": "GenericError", "desc": "Property 'vhost-user-vsock-pci.chardev' can't take value 'vsock', it's in use"}, "id": ${}}` + "\n"
		noBus     = plug + `S: {"error": {"class": "DeviceNotFound", "desc": "Bus not found"}, "id": ${}}` + "\n"
		taken     = plug + `S: {"return": {}, "id": ${}}` + "\n"
	)
	t.Run("there already", func(t *testing.T) {
		vm := &VM{conn: dialogue(t, qmptest.Greeting+in)}
		assert.NoError(t, vm.replugVsock(testContext(t)))
	})
	t.Run("in use for a while", func(t *testing.T) {
		vm := &VM{conn: dialogue(t, qmptest.Greeting+out+inUse+inUse+inUse+taken)}
		assert.NoError(t, vm.replugVsock(testContext(t)))
	})
	t.Run("another error", func(t *testing.T) {
		vm := &VM{conn: dialogue(t, qmptest.Greeting+out+inUse+noBus)}
		var refused *qmp.Error
		require.ErrorAs(t, vm.replugVsock(testContext(t)), &refused)
		assert.Equal(t, qmp.ClassDeviceNotFound, refused.Class)
	})
}
