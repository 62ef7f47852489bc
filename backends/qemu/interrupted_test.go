package qemu

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/handle"
	"vmfs/backends/hostnet/hostnettest"
	"vmfs/backends/hypervisor"
	"vmfs/backends/rundir"
	"vmfs/internal/wait"
)

// startIn names the directory in which this program, started anew, is to start a
// VM and then wait to be killed; forwardOf gives the VM a network of passt's.
const (
	startIn   = "VMFS_TEST_QEMU_START_IN"
	forwardOf = "VMFS_TEST_QEMU_FORWARD"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(startIn); dir != "" {
		config := bare(dir)
		if rule := os.Getenv(forwardOf); rule != "" {
			config.Networks = []hypervisor.NetworkConfig{{Passt: true, Forwards: []string{rule}}}
		}
		_, _, err := New(Config{}).StartVM(context.Background(), nil, "", filepath.Join(dir, SocketName), config)
		if err != nil {
			println(err.Error())
			os.Exit(1)
		}
		time.Sleep(time.Hour)
	}
	os.Exit(m.Run())
}

// TestServerKilledInAStart kills a server at many moments of a start: afterwards
// there either is no QEMU, or one that is reached by its socket and can be let run,
// and no passt but QEMU's.
func TestServerKilledInAStart(t *testing.T) {
	s := newTestStarter(t)
	exe, err := os.Executable()
	require.NoError(t, err)
	var none, found int
	_, err = exec.LookPath("passt")
	passt := err == nil // TestPasst misses it
	// On a machine that has much else to do a start takes longer.
	for after := time.Duration(0); after < 250*time.Millisecond || found == 0 && after < time.Minute; after += max(20*time.Millisecond, after/8) {
		dir := shortDir(t)
		cmd := exec.Command(exe)
		cmd.Env = append(os.Environ(), startIn+"="+dir)
		port := hostnettest.FreePort(t)
		if passt {
			cmd.Env = append(cmd.Env, forwardOf+"=tcp:127.0.0.1:"+port+":22")
		}
		cmd.Stderr = os.Stderr
		require.NoError(t, cmd.Start())
		time.Sleep(after) // the moment is to vary
		require.NoError(t, cmd.Process.Kill())
		_ = cmd.Wait() // it was killed

		ctx := testContext(t)
		var id hypervisor.Identity
		vm, err := s.Open(filepath.Join(dir, SocketName))
		if err == nil {
			if id, err = vm.Identify(ctx); errors.Is(err, hypervisor.ErrHypervisorNotRunning) {
				// A process that was to become another's program, such as passt's, had
				// QEMU's socket until then.
				require.NoError(t, vm.Close())
			}
		}
		if errors.Is(err, hypervisor.ErrHypervisorNotRunning) {
			none++
			// What was left is in nobody's way, and nobody is in its way.
			expectNoProcess(t, dir)
			awaitNoPasst(t, port)
			v := startTest(t, s, dir, bare(dir))
			v.end()
			continue
		}
		found++
		require.NoError(t, err, "after %v", after)
		assert.Equal(t, bare(dir).UUID, id.UUID)
		info, err := vm.GetVMInfo(ctx)
		require.NoError(t, err)
		assert.Contains(t, []hypervisor.VMState{hypervisor.StateCreated, hypervisor.StateRunning}, info.State)
		require.NoError(t, vm.Resume(ctx))
		info, err = vm.GetVMInfo(ctx)
		require.NoError(t, err)
		assert.Equal(t, hypervisor.StateRunning, info.State)
		require.NoError(t, vm.Shutdown(ctx))
		proc := vm.proc
		require.NoError(t, vm.Close())
		require.NoError(t, proc.Wait(ctx))
		awaitNoPasst(t, port)
	}
	t.Logf("no QEMU in %d cases, one that was found in %d", none, found)
	assert.Positive(t, none)
	assert.Positive(t, found)
}

// expectNoProcess checks that no QEMU of the directory runs.
func expectNoProcess(t testing.TB, dir string) {
	t.Helper()
	for _, path := range qemusOf(t, dir) {
		t.Errorf("an orphan: %s", path)
	}
}

// TestPausedForASnapshot is a server that died while it wrote a snapshot of a
// running VM: the next one lets the VM go on.
func TestPausedForASnapshot(t *testing.T) {
	s := newTestStarter(t)
	dir := shortDir(t)
	v := startTest(t, s, dir, bare(dir))
	ctx := testContext(t)
	v.Hold(true)
	require.NoError(t, v.raw(ctx).Stop())
	assert.Equal(t, handle.ReasonSnapshot, v.info().Reason)

	v = v.reopen()
	e := v.events.await(t, 0, "going on", kind(hypervisor.EventRunning))
	assert.Equal(t, hypervisor.StateRunning, e.State)
	require.Eventually(t, func() bool {
		rec, err := rundir.Read[record](v.VM.dir.Dir)
		return err == nil && !rec.Resume
	}, patience, 5*time.Millisecond)
	assert.Equal(t, hypervisor.StateRunning, v.info().State)

	// One that was paused by a command stays so.
	require.NoError(t, wait.Until(ctx, time.Millisecond, func() (bool, error) {
		err := v.Pause(ctx)
		if errors.Is(err, hypervisor.ErrBusy) {
			return false, nil // it lets others in a moment after it has put that down
		}
		return true, err
	}))
	v = v.reopen()
	assert.Equal(t, hypervisor.VMState("paused"), v.info().State)
}

// TestHungWhileClosed closes the handle on a QEMU that hangs, and takes it up
// again.
func TestHungWhileClosed(t *testing.T) {
	s := newTestStarter(t)
	dir := shortDir(t)
	v := startTest(t, s, dir, bare(dir))
	pid := v.Child.PID
	require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP))
	began := time.Now()
	again := v.reopen()
	short, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	_, err := again.GetVMInfo(short)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	assert.Less(t, time.Since(began), 5*time.Second)
	require.NoError(t, syscall.Kill(pid, syscall.SIGCONT))
	assert.Equal(t, hypervisor.StateRunning, again.info().State, "the same handle works when QEMU goes on")
}
