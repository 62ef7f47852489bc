package machine

import (
	"context"
	"fmt"
	"io"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/hypervisor"
	"vmfs/backends/sim"
)

// TestAutoCID has CIDs picked: no two VMs get the same, and each keeps its own.
func TestAutoCID(t *testing.T) {
	h, _ := simHost(t)
	cid := func(v *VM) int64 { return v.VsockCID() }
	other := create(t, h, "other", fmt.Sprintf("vsock.cid=%d", firstCID))
	a, b := create(t, h, "a", "vsock.cid=auto"), create(t, h, "b", "vsock.cid=auto")
	assert.Zero(t, cid(a), "none before the first start")
	assert.EqualValues(t, firstCID, cid(other))
	require.NoError(t, b.Start(within(t)))
	require.NoError(t, a.Start(within(t)))
	assert.EqualValues(t, firstCID+1, cid(b))
	assert.EqualValues(t, firstCID+2, cid(a))
	assert.Contains(t, a.Config().String(), "vsock.cid=auto\n")

	conn, err := a.DialVsock(within(t), sim.PortEcho)
	require.NoError(t, err)
	_, err = conn.Write([]byte("ping"))
	require.NoError(t, err)
	_, err = io.ReadFull(conn, make([]byte, 4))
	require.NoError(t, err)
	require.NoError(t, conn.Close())

	// It stays over a snapshot, the end, the server's end, and another's start.
	require.NoError(t, a.Snapshot(within(t), "one"))
	require.NoError(t, b.Kill(within(t)))
	require.NoError(t, a.Kill(within(t)))
	require.NoError(t, h.Close())
	h = open(t, h.dir)
	vm := func(name string) *VM {
		v, ok := h.VM(name)
		require.True(t, ok)
		return v
	}
	a, b = vm("a"), vm("b")
	assert.EqualValues(t, firstCID+2, cid(a))
	require.NoError(t, a.Start(within(t)))
	assert.EqualValues(t, firstCID+2, cid(a))
	require.NoError(t, a.Kill(within(t)))
	require.NoError(t, a.Restore(within(t), "one"))
	assert.EqualValues(t, firstCID+2, cid(a))
	require.NoError(t, a.Resume(within(t)))
	conn, err = a.DialVsock(within(t), sim.PortEcho)
	require.NoError(t, err)
	require.NoError(t, conn.Close())

	// One that was chosen by hand has it from then on.
	require.NoError(t, vm("other").SetConfig(within(t), fmt.Sprintf("vsock.cid=%d", firstCID+1), false))
	require.NoError(t, b.Start(within(t)))
	assert.EqualValues(t, firstCID, cid(b))
	require.NoError(t, a.Kill(within(t)))
	require.NoError(t, a.SetConfig(within(t), "vsock.cid=", false))
	assert.Zero(t, cid(a))
}

// TestAutoCIDInUse has other guests of the host with CIDs that this server does not
// know of.
func TestAutoCIDInUse(t *testing.T) {
	h, _ := simHost(t)
	starter, ok := hypervisor.StarterFor(hypervisor.TypeSim)
	require.True(t, ok)
	taken := &takenStarter{starter, starter.(hypervisor.Capable), map[int64]bool{firstCID: true, firstCID + 1: true, 3: true}}
	hypervisor.RegisterStarter(hypervisor.TypeSim, taken)
	defer hypervisor.RegisterStarter(hypervisor.TypeSim, starter)
	v := create(t, h, "web", "vsock.cid=auto")
	require.NoError(t, v.Start(within(t)))
	assert.EqualValues(t, firstCID+2, v.VsockCID())
	rec, err := readRecord(v.Dir() + "/" + recordFile)
	require.NoError(t, err)
	assert.EqualValues(t, firstCID+2, rec.VsockCID)

	// What somebody chose is not changed.
	w := create(t, h, "other", "vsock.cid=3")
	err = w.Start(within(t))
	assert.ErrorIs(t, err, hypervisor.ErrCIDInUse)
	assert.ErrorIs(t, err, hypervisor.ErrBusy)
	assert.EqualValues(t, 3, w.VsockCID())
}

// TestAutoCIDRestored has the CID that a snapshot's guest had given to another.
func TestAutoCIDRestored(t *testing.T) {
	h, _ := simHost(t)
	starter, ok := hypervisor.StarterFor(hypervisor.TypeSim)
	require.True(t, ok)
	taken := &takenStarter{starter, starter.(hypervisor.Capable), make(map[int64]bool)}
	hypervisor.RegisterStarter(hypervisor.TypeSim, taken)
	defer hypervisor.RegisterStarter(hypervisor.TypeSim, starter)
	saved := func(name, config string) *VM {
		v := create(t, h, name, config)
		require.NoError(t, v.Start(within(t)))
		require.NoError(t, v.Snapshot(within(t), "one"))
		require.NoError(t, v.Kill(within(t)))
		return v
	}
	answers := func(v *VM) {
		t.Helper()
		require.NoError(t, v.Resume(within(t)))
		conn, err := v.DialVsock(within(t), sim.PortEcho)
		require.NoError(t, err)
		require.NoError(t, conn.Close())
		require.NoError(t, v.Kill(within(t)))
	}

	// Another VM's config says it.
	a := saved("a", "vsock.cid=auto")
	create(t, h, "other", fmt.Sprintf("vsock.cid=%d", firstCID))
	require.NoError(t, a.Restore(within(t), "one"))
	assert.EqualValues(t, firstCID+1, a.VsockCID())
	answers(a)

	// A guest that this server does not know of has it.
	taken.taken[firstCID+1] = true
	require.NoError(t, a.Restore(within(t), "one"))
	assert.EqualValues(t, firstCID+2, a.VsockCID())
	answers(a)

	// What somebody chose is not changed, unless they say so.
	b := saved("b", "vsock.cid=3")
	taken.taken[3] = true
	assert.ErrorIs(t, b.Restore(within(t), "one"), hypervisor.ErrCIDInUse)
	assert.EqualValues(t, 3, b.VsockCID())
	require.NoError(t, b.Restore(within(t), "one", "vsock.cid=auto"))
	assert.EqualValues(t, firstCID+3, b.VsockCID())
	assert.Contains(t, b.Config().String(), "vsock.cid=auto\n")
	answers(b)
}

// takenStarter refuses CIDs, as the host's kernel does.
type takenStarter struct {
	hypervisor.VMStarter
	hypervisor.Capable
	taken map[int64]bool
}

func (s *takenStarter) StartVM(ctx context.Context, p *hypervisor.Paths, version, socket string, c hypervisor.VMConfig) (int, hypervisor.Hypervisor, error) {
	if s.taken[c.VsockCID] {
		return 0, nil, fmt.Errorf("sim: start %s: CID %d: %w", c.Name, c.VsockCID, hypervisor.ErrCIDInUse)
	}
	return s.VMStarter.StartVM(ctx, p, version, socket, c)
}

func (s *takenStarter) RestoreVMWith(ctx context.Context, p *hypervisor.Paths, version, socket, snapshot string, c hypervisor.VMConfig) (int, hypervisor.Hypervisor, error) {
	if s.taken[c.VsockCID] {
		return 0, nil, fmt.Errorf("sim: restore %s: CID %d: %w", c.Name, c.VsockCID, hypervisor.ErrCIDInUse)
	}
	return s.VMStarter.(hypervisor.ConfigRestorer).RestoreVMWith(ctx, p, version, socket, snapshot, c)
}
