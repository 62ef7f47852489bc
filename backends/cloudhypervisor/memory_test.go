package cloudhypervisor

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/cloudhypervisor/api"
	"vmfs/backends/cloudhypervisor/chtest"
	"vmfs/backends/hypervisor"
)

// TestResize sets sizes above and below what the VM booted with, and those that it has.
func TestResize(t *testing.T) {
	f := startFake(t, chtest.Config{})
	actual := func() int64 {
		info, err := f.GetVMInfo(t.Context())
		require.NoError(t, err)
		return *info.MemoryActualSize
	}
	for _, c := range []struct{ bytes, want int64 }{
		{64 * mib, 64 * mib}, {96 * mib, 96 * mib}, {96 * mib, 96 * mib}, {97 * mib, 98 * mib}, {97*mib - 1, 96 * mib},
		{264 * mib, 264 * mib}, {48 * mib, 48 * mib}, {48 * mib, 48 * mib}, {48*mib + 3000, 48*mib + 4096}, {64*mib + 1, 64 * mib}, {200 * mib, 200 * mib}, {16 * mib, 16 * mib},
	} {
		require.NoError(t, f.ResizeMemoryAndWait(t.Context(), c.bytes, 10*time.Second), "%d", c.bytes)
		assert.Equal(t, c.want, actual(), "%d", c.bytes)
		require.NoError(t, f.ResizeMemory(t.Context(), c.bytes), "the same again")
	}
	for _, bytes := range []int64{264*mib + 1, 1 << 62, 16*mib - 1, 0, -1} {
		require.ErrorIs(t, f.ResizeMemory(t.Context(), bytes), hypervisor.ErrInvalid, "%d", bytes)
	}
	info, err := f.client.Info(t.Context())
	require.NoError(t, err)
	assert.Equal(t, 256*mib, info.Config.Memory.HotplugSize, "rounded up, of which 200 MiB are offered")
}

// TestTrack hears of the guest's way to a target that nobody waits for.
func TestTrack(t *testing.T) {
	f := startFake(t, chtest.Config{})
	_, err := f.actualMemory(t.Context())
	require.NoError(t, err)
	require.NoError(t, f.ResizeMemory(t.Context(), 80*mib))
	assert.Equal(t, []hypervisor.Detail{{Key: "actual", Value: "83886080"}}, f.expect(hypervisor.EventMemory).Detail)
}

func TestResizeOfAGuestThatEnded(t *testing.T) {
	f := startFake(t, chtest.Config{})
	require.NoError(t, f.Order(func() error { return nil })) // so that the VMM is not told to go
	require.NoError(t, f.client.ShutdownVM(t.Context()))
	info, err := f.client.Info(t.Context())
	require.NoError(t, err)
	require.Equal(t, api.StateCreated, info.State)
	require.ErrorIs(t, f.ResizeMemory(t.Context(), 80*mib), hypervisor.ErrBusy, "it would change what a new boot has")
}
