package machine

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/hypervisor"
	"vmfs/backends/process"
	"vmfs/machine/events"
)

// killedServer runs a server that starts, or restores, the VM web and is killed
// at a step.
func killedServer(t *testing.T, dir, verb, step string) {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), "MACHINE_TEST_ROLE=server", "MACHINE_TEST_STATE="+dir,
		"MACHINE_TEST_KILL="+step, "MACHINE_TEST_VERB="+verb)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit, "%s", out)
	ws := exit.Sys().(syscall.WaitStatus)
	require.True(t, ws.Signaled() && ws.Signal() == syscall.SIGKILL, "%v: %s", err, out)
}

func vzHost(t *testing.T, dir string, change ...func(*Options)) *Host {
	t.Helper()
	return open(t, dir, append([]func(*Options){func(o *Options) { o.DefaultBackend = hypervisor.TypeVZ }}, change...)...)
}

// A server killed at any step of a start leaves either no VMM, or one that its
// successor finds and goes on with; never an orphan, never a broken record.
func TestServerKilledInStart(t *testing.T) {
	for _, c := range []struct {
		step  string
		state hypervisor.VMState
	}{
		{stepBegin, hypervisor.StateCreated},
		{stepRecorded, hypervisor.StateCreated},
		{"prelaunch", hypervisor.StateRunning},
		{stepSpawned, hypervisor.StateRunning},
		{stepRunning, hypervisor.StateRunning},
		{"done", hypervisor.StateRunning},
	} {
		t.Run(c.step, func(t *testing.T) {
			t.Parallel()
			dir := stateDir(t)
			onlyFake(t, dir)
			killedServer(t, dir, "start", c.step)
			h := vzHost(t, dir)
			v, ok := h.VM("web")
			require.True(t, ok)
			s := awaitState(t, v, c.state)
			live := livePIDs(t, dir)
			if c.state == hypervisor.StateCreated {
				assert.Empty(t, live)
				assert.Zero(t, s.PID)
				require.NoError(t, v.Start(within(t)))
				live = livePIDs(t, dir)
				s = v.Status()
			}
			require.Equal(t, []int{s.PID}, live)
			assert.Equal(t, hypervisor.StateRunning, s.State)
			rec, err := readRecord(filepath.Join(v.Dir(), recordFile))
			require.NoError(t, err)
			assert.Equal(t, phaseRunning, rec.Phase)
			require.NotNil(t, rec.Process)
			assert.Equal(t, s.PID, rec.Process.PID)

			// Events, verbs and the end go on as if nothing had been.
			require.NoError(t, v.Pause(within(t)))
			assert.Equal(t, hypervisor.StatePaused, v.State())
			require.NoError(t, v.Resume(within(t)))
			require.NoError(t, v.Stop(within(t)))
			assert.Empty(t, livePIDs(t, dir))
			assert.NoFileExists(t, v.SocketPath())
			require.NoError(t, h.Delete(within(t), "web"))
		})
	}
}

func TestServerKilledInRestore(t *testing.T) {
	for _, c := range []struct {
		step  string
		state hypervisor.VMState
	}{
		{stepRecorded, hypervisor.StateShutdown},
		{"prelaunch", hypervisor.StateShutdown}, // a half restored VM is ended
		{stepSpawned, hypervisor.StatePaused},
		{"done", hypervisor.StatePaused},
	} {
		t.Run(c.step, func(t *testing.T) {
			t.Parallel()
			dir := stateDir(t)
			onlyFake(t, dir)
			h := vzHost(t, dir)
			v := started(t, h, "web", "")
			require.NoError(t, v.Snapshot(within(t), "one"))
			require.NoError(t, v.Kill(within(t)))
			require.NoError(t, h.Close())

			killedServer(t, dir, "restore", c.step)
			h = vzHost(t, dir)
			v, _ = h.VM("web")
			s := awaitState(t, v, c.state)
			if c.state == hypervisor.StateShutdown {
				require.NoError(t, v.awaitEnd(within(t)))
				assert.Empty(t, livePIDs(t, dir))
				require.NoError(t, v.Restore(within(t), "one"))
			} else {
				assert.Equal(t, []int{s.PID}, livePIDs(t, dir))
			}
			require.NoError(t, v.Resume(within(t)))
			require.NoError(t, v.Kill(within(t)))
		})
	}
}

func TestReadoption(t *testing.T) {
	dir := stateDir(t)
	onlyFake(t, dir)
	h := vzHost(t, dir)
	v := started(t, h, "web", "")
	paused := started(t, h, "paused", "")
	require.NoError(t, paused.Pause(within(t)))
	dies := started(t, h, "dies", "")
	before := v.Status()
	dead := dies.Status().PID
	require.NoError(t, h.Close())
	p, err := process.Find(dead)
	require.NoError(t, err)
	require.NoError(t, p.Signal(syscall.SIGKILL))
	require.NoError(t, p.Wait(within(t)))

	h = vzHost(t, dir)
	v, _ = h.VM("web")
	after := v.Status()
	assert.Equal(t, hypervisor.StateRunning, after.State)
	assert.Equal(t, before.PID, after.PID)
	assert.WithinDuration(t, before.Started, after.Started, 0)
	assert.Equal(t, before.MemoryTarget, after.MemoryTarget)
	paused, _ = h.VM("paused")
	assert.Equal(t, hypervisor.StatePaused, paused.State())
	require.NoError(t, paused.Resume(within(t)))

	dies, _ = h.VM("dies")
	s := awaitState(t, dies, hypervisor.StateShutdown)
	assert.Equal(t, "lost", s.Reason)
	assert.Contains(t, s.LastExit, "while no server ran")
	assert.Contains(t, s.LastExit, "fake VMM of dies", "the VMM's last words")
	require.NoError(t, dies.awaitEnd(within(t)))
	assert.NoFileExists(t, dies.SocketPath())
	require.NoError(t, dies.Start(within(t)))

	// What the guest does by itself is told, as is a sudden end.
	sub := v.Events().Subscribe()
	defer sub.Close()
	require.NoError(t, v.PowerOff(within(t)))
	s = awaitState(t, v, hypervisor.StateShutdown)
	assert.Contains(t, kinds(t, sub, events.KindExited), "shutdown")
	assert.Equal(t, "guest-shutdown", v.Status().Reason)
	p, err = process.Find(dies.Status().PID)
	require.NoError(t, err)
	require.NoError(t, p.Signal(syscall.SIGKILL))
	s = awaitState(t, dies, hypervisor.StateShutdown)
	assert.Equal(t, "vmm-died", s.Reason)
}

// A stopped VMM delays neither the server's start nor other VMs; it can be
// killed, and is found as soon as it goes on.
func TestAdoptStoppedVMM(t *testing.T) {
	dir := stateDir(t)
	onlyFake(t, dir)
	h := vzHost(t, dir)
	var stopped []process.Process
	for _, name := range []string{"goes-on", "killed"} {
		p, err := process.Find(started(t, h, name, "").Status().PID)
		require.NoError(t, err)
		require.NoError(t, p.Signal(syscall.SIGSTOP))
		stopped = append(stopped, p)
	}
	started(t, h, "well", "")
	require.NoError(t, h.Close())

	begin := time.Now()
	h = vzHost(t, dir, func(o *Options) {
		o.Timeouts = Timeouts{Adopt: 500 * time.Millisecond, Verb: 500 * time.Millisecond}
	})
	assert.Less(t, time.Since(begin), 10*time.Second)
	well, _ := h.VM("well")
	awaitState(t, well, hypervisor.StateRunning)
	require.NoError(t, well.Pause(within(t)))

	killed, _ := h.VM("killed")
	assert.Equal(t, stopped[1].PID, killed.Status().PID)
	err := killed.Pause(within(t))
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	await(t, killed, "a reason", func(s Status) bool { return s.Reason == "not-answering" })
	require.NoError(t, killed.Kill(within(t)))
	assert.Equal(t, hypervisor.StateShutdown, killed.State())
	assert.False(t, stopped[1].Alive())

	on, _ := h.VM("goes-on")
	sub := on.Events().Subscribe()
	defer sub.Close()
	require.NoError(t, stopped[0].Signal(syscall.SIGCONT))
	kinds(t, sub, events.KindAdopted)
	assert.Empty(t, on.Status().Reason)
	require.NoError(t, on.Pause(within(t)))
}

// A VMM that is not the VM's is never touched, whatever socket it answers on.
func TestForeignVMM(t *testing.T) {
	dir := stateDir(t)
	onlyFake(t, dir)
	h := vzHost(t, dir)
	other := started(t, h, "other", "")
	foreign := other.Status().PID
	v := started(t, h, "web", "")
	require.NoError(t, v.Kill(within(t)))
	require.NoError(t, os.Symlink(other.SocketPath(), v.SocketPath()))

	err := v.Start(within(t))
	assert.ErrorIs(t, err, hypervisor.ErrBusy)
	assert.ErrorContains(t, err, `"other"`)
	assert.Equal(t, hypervisor.StateShutdown, v.State())
	require.NoError(t, h.Close())

	// A record that says that web's VMM is there does not make it so.
	path := filepath.Join(v.Dir(), recordFile)
	rec, err := readRecord(path)
	require.NoError(t, err)
	rec.Phase, rec.Backend = phaseStarting, hypervisor.TypeVZ
	require.NoError(t, rec.write(path))
	h = vzHost(t, dir)
	v, _ = h.VM("web")
	awaitState(t, v, hypervisor.StateShutdown)
	assert.Contains(t, v.LastError(), `"other"`)
	other, _ = h.VM("other")
	assert.Equal(t, foreign, other.Status().PID)
	require.NoError(t, other.Pause(within(t)))
	assert.Equal(t, []int{foreign}, livePIDs(t, dir))
}

// A server that was killed after it had made the sockets of a VMM, and before it
// had started that, has left them; they go with the start.
func TestSocketsOfNoVMM(t *testing.T) {
	dir := stateDir(t)
	onlyFake(t, dir)
	h := vzHost(t, dir)
	v, err := h.Create("web", Owner{})
	require.NoError(t, err)
	require.NoError(t, h.Close())
	require.NoError(t, os.MkdirAll(filepath.Dir(v.SocketPath()), 0o700))
	for _, path := range []string{v.SocketPath(), filepath.Join(filepath.Dir(v.SocketPath()), "console.sock")} {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		require.NoError(t, err)
		l.SetUnlinkOnClose(false)
		require.NoError(t, l.Close())
	}
	path := filepath.Join(v.Dir(), recordFile)
	rec, err := readRecord(path)
	require.NoError(t, err)
	rec.Phase, rec.Backend, rec.Socket = phaseStarting, hypervisor.TypeVZ, v.SocketPath()
	require.NoError(t, rec.write(path))
	h = vzHost(t, dir)
	v, _ = h.VM("web")
	awaitState(t, v, hypervisor.StateCreated)
	left, err := os.ReadDir(filepath.Dir(v.SocketPath()))
	require.NoError(t, err)
	assert.Empty(t, left)
}

// The pid of a record that is another process's now is not the VMM.
func TestReusedPID(t *testing.T) {
	dir := stateDir(t)
	onlyFake(t, dir)
	h := vzHost(t, dir)
	v := create(t, h, "web", "")
	require.NoError(t, h.Close())
	self, err := process.Find(os.Getpid())
	require.NoError(t, err)
	path := filepath.Join(v.Dir(), recordFile)
	rec, err := readRecord(path)
	require.NoError(t, err)
	rec.Phase, rec.Ran, rec.Backend = phaseRunning, true, hypervisor.TypeVZ
	rec.Process = &process.Process{PID: self.PID, Start: self.Start + "0"}
	require.NoError(t, rec.write(path))
	h = vzHost(t, dir)
	v, _ = h.VM("web")
	awaitState(t, v, hypervisor.StateShutdown)
	assert.Equal(t, "lost", v.Status().Reason)
}

// A VM whose record was lost while it ran is found by its socket.
func TestLostRecord(t *testing.T) {
	dir := stateDir(t)
	onlyFake(t, dir)
	h := vzHost(t, dir)
	v := started(t, h, "web", "")
	uuid, pid := v.UUID(), v.Status().PID
	require.NoError(t, h.Close())
	require.NoError(t, os.WriteFile(filepath.Join(v.Dir(), recordFile), []byte("{"), 0o600))
	h = vzHost(t, dir)
	v, _ = h.VM("web")
	s := awaitState(t, v, hypervisor.StateRunning)
	assert.Equal(t, pid, s.PID)
	assert.Equal(t, uuid, v.UUID())
	require.NoError(t, v.Stop(within(t)))
	assert.Empty(t, livePIDs(t, dir))
}

// A handle that loses its connection is made anew, while the VMM lives.
func TestReconnect(t *testing.T) {
	dir := stateDir(t)
	onlyFake(t, dir)
	h := vzHost(t, dir)
	v := started(t, h, "web", "")
	sub := v.Events().Subscribe()
	defer sub.Close()
	v.mu.Lock()
	conn := v.session.hv.(*fakeHandle).conn
	v.mu.Unlock()
	require.NoError(t, conn.Close())
	assert.Contains(t, kinds(t, sub, events.KindReconnected), events.KindDisconnected)
	require.NoError(t, v.Pause(within(t)))
	require.NoError(t, v.Stop(within(t)))
}

// A VMM of the VM itself that the record does not know of is not started over.
func TestUnknownVMM(t *testing.T) {
	dir := stateDir(t)
	onlyFake(t, dir)
	h := vzHost(t, dir)
	v := started(t, h, "web", "")
	pid := v.Status().PID
	require.NoError(t, h.Close())
	path := filepath.Join(v.Dir(), recordFile)
	rec, err := readRecord(path)
	require.NoError(t, err)
	rec.Phase, rec.Process = phaseDown, nil
	require.NoError(t, rec.write(path))
	h = vzHost(t, dir)
	v, _ = h.VM("web")
	assert.Equal(t, hypervisor.StateShutdown, v.State())
	err = v.Start(within(t))
	assert.ErrorIs(t, err, hypervisor.ErrBusy)
	assert.ErrorContains(t, err, "already")
	assert.Equal(t, []int{pid}, livePIDs(t, dir))
}
