package hypervisortest

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/hypervisor"
)

// snapshot is one that was made, and what it must bring back.
type snapshot struct {
	path   string
	config hypervisor.VMConfig
	memory int64
	token  string // what the guest remembers; "" is not tested
	of     string // the state it was made in
}

// remember has the guest keep a token, if that can be tested.
func (vm *VM) remember(t testing.TB) string {
	t.Helper()
	if vm.suite.b.Remember == nil || vm.suite.b.Recall == nil {
		return ""
	}
	conn, ok := vm.openConsole(t)
	if !ok {
		return ""
	}
	token := newToken()
	typed, want := vm.suite.b.Remember(token)
	vm.typeAt(t, conn, typed, want)
	require.NoError(t, conn.Close())
	return token
}

func (vm *VM) recall(t testing.TB, token string) {
	t.Helper()
	if token == "" {
		return
	}
	conn, ok := vm.openConsole(t)
	require.True(t, ok, "a restored VM has no console")
	typed, want := vm.suite.b.Recall(token)
	vm.typeAt(t, conn, typed, want)
	require.NoError(t, conn.Close())
}

func (s *suite) testSnapshot(t *testing.T) {
	vm := s.vm(t)
	caps := vm.Handle.Capabilities()
	if !caps.SupportsSnapshot {
		t.Skip("the back end cannot make snapshots; that it says so is tested")
	}
	resizes := caps.SupportsHotplugMemory
	states := []hypervisor.VMState{hypervisor.StateRunning, hypervisor.StateRunning}
	if caps.SupportsPause {
		states = append(states, hypervisor.StatePaused, hypervisor.StatePaused)
	}
	for i, state := range states {
		snap := snapshot{
			path: filepath.Join(s.dir(t), "snapshot"), config: vm.Config,
			memory: vm.Config.MemoryBytes, of: string(state),
		}
		require.NoError(t, os.Mkdir(snap.path, 0o700))
		if resizes && i%2 == 1 {
			snap.memory = vm.smaller()
			vm.resize(t, snap.memory)
		}
		snap.token = vm.remember(t)
		if state == hypervisor.StatePaused {
			require.NoError(t, vm.Handle.Pause(s.ctx(t)), "Pause")
		}
		require.NoError(t, vm.Handle.Snapshot(s.ctx(t), snap.path), "Snapshot of a %s VM, the %d. one", state, i+1)
		vm.expectState(t, state)
		if caps.SupportsPause {
			require.NoError(t, vm.Handle.Resume(s.ctx(t)), "Resume after a snapshot")
			vm.expectState(t, hypervisor.StateRunning)
		}
		vm.expectAlive(t)
		vm.recall(t, snap.token)
		if resizes {
			vm.resize(t, vm.Config.MemoryBytes)
		}
		s.snaps = append(s.snaps, snap)
	}

	t.Run("that cannot be written", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "file")
		require.NoError(t, os.WriteFile(file, nil, 0o600))
		for _, state := range states[1:min(len(states), 3)] {
			if state == hypervisor.StatePaused {
				require.NoError(t, vm.Handle.Pause(s.ctx(t)), "Pause")
			}
			err := vm.Handle.Snapshot(s.ctx(t), filepath.Join(file, "snapshot"))
			assert.Error(t, err, "Snapshot into a directory that cannot be")
			vm.expectState(t, state)
		}
		if caps.SupportsPause {
			require.NoError(t, vm.Handle.Resume(s.ctx(t)), "Resume")
		}
		vm.expectAlive(t)
	})
	t.Run("that is cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		dir := t.TempDir()
		assert.ErrorIs(t, vm.Handle.Snapshot(ctx, dir), context.Canceled, "Snapshot with a cancelled context")
		vm.expectState(t, hypervisor.StateRunning)
		other := s.dir(t)
		pid, hv, err := s.b.Starter.RestoreVM(s.ctx(t), s.b.Paths, "", s.socket(other), dir)
		s.expectNothing(t, other, pid, hv, err)
	})
}

func (s *suite) testRestore(t *testing.T) {
	if len(s.snaps) == 0 {
		vm := s.vm(t)
		if !vm.Handle.Capabilities().SupportsSnapshot {
			t.Skip("the back end cannot make snapshots; that it says so is tested")
		}
		s.testSnapshot(t)
	}
	// The original has the same name, console log and vsock, and so must be gone.
	if s.shared != nil {
		s.shared.discard(t)
		s.shared = nil
	}
	t.Run("of nothing", func(t *testing.T) {
		dir := s.dir(t)
		pid, hv, err := s.b.Starter.RestoreVM(s.ctx(t), s.b.Paths, "", s.socket(dir), t.TempDir())
		s.expectNothing(t, dir, pid, hv, err)
	})
	if r, ok := s.b.Starter.(hypervisor.ConfigRestorer); ok {
		t.Run("with another configuration", func(t *testing.T) { s.restoreWith(t, r, s.snaps[0]) })
	}
	// The first and the last are restored twice: a snapshot is not used up.
	for _, snap := range append([]snapshot{s.snaps[len(s.snaps)-1], s.snaps[0]}, s.snaps...) {
		t.Run("of a "+snap.of+" VM", func(t *testing.T) { s.restore(t, snap) })
	}
}

// restoreWith restores with what is another host's: identity, logs and sockets.
func (s *suite) restoreWith(t *testing.T, r hypervisor.ConfigRestorer, snap snapshot) {
	with := func(dir string, config hypervisor.VMConfig) (int, hypervisor.Hypervisor, error) {
		return r.RestoreVMWith(s.ctx(t), s.b.Paths, "", s.socket(dir), snap.path, config)
	}
	dir := s.dir(t)
	config := snap.config
	config.Name, config.UUID = "elsewhere", "0e37f9a3-26c6-4d46-9b7e-9d4c4a1f0f55"
	config.LogPath, config.SerialLogPath = filepath.Join(dir, "log"), filepath.Join(dir, "serial.log")
	more := config
	more.Networks = append(more.Networks, hypervisor.NetworkConfig{User: true})
	other := s.dir(t)
	pid, hv, err := with(other, more)
	require.ErrorIs(t, err, hypervisor.ErrInvalid, "a network more than the guest had")
	s.expectNothing(t, other, pid, hv, err)

	pid, hv, err = with(dir, config)
	require.NoError(t, err, "RestoreVMWith")
	vm := s.adopt(t, pid, hv, s.socket(dir), config)
	defer vm.discard(t)
	vm.expectState(t, hypervisor.StatePaused)
	vm.expectIdentity(t)
	if hv.Capabilities().SupportsPause {
		require.NoError(t, hv.Resume(s.ctx(t)), "Resume of a restored VM")
		vm.expectAlive(t)
		vm.recall(t, snap.token)
	}
}

func (s *suite) restore(t *testing.T, snap snapshot) {
	dir := s.dir(t)
	pid, hv, err := s.b.Starter.RestoreVM(s.ctx(t), s.b.Paths, "", s.socket(dir), snap.path)
	require.NoError(t, err, "RestoreVM")
	vm := s.adopt(t, pid, hv, s.socket(dir), snap.config)
	defer vm.discard(t)
	t.Cleanup(func() {
		if t.Failed() {
			vm.explain(t)
		}
	})
	vm.expectState(t, hypervisor.StatePaused)
	vm.expectIdentity(t)
	if hv.Capabilities().SupportsHotplugMemory {
		vm.expectMemory(t, snap.memory, "of a restored VM")
	}
	if !hv.Capabilities().SupportsPause {
		return
	}
	require.NoError(t, hv.Resume(s.ctx(t)), "Resume of a restored VM")
	vm.expectState(t, hypervisor.StateRunning)
	vm.expectAlive(t)
	vm.recall(t, snap.token)
	if hv.Capabilities().SupportsHotplugMemory {
		vm.resize(t, vm.smaller())
		vm.resize(t, vm.Config.MemoryBytes)
	}

	again := filepath.Join(dir, "again")
	require.NoError(t, os.Mkdir(again, 0o700))
	require.NoError(t, hv.Snapshot(s.ctx(t), again), "Snapshot of a restored VM")
	vm.expectState(t, hypervisor.StateRunning)
}
