package cloudhypervisor

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/cloudhypervisor/api"
	"vmfs/backends/cloudhypervisor/chtest"
	"vmfs/backends/hypervisor"
	"vmfs/backends/rundir"
)

const mib = int64(1) << 20

func TestLimiter(t *testing.T) {
	assert.Nil(t, limiter(hypervisor.DiskConfig{Path: "/d"}))
	for _, c := range []struct{ bps, burst, size, refill int64 }{
		{10 * mib, 0, 10 * mib, 1000},
		{10 * mib, 20 * mib, 20 * mib, 2000},
		{10 * mib, 10 * mib, 10 * mib, 1000},
		{100e6, 0, 100e6, 1000},
		{3e6, 10e6, 10e6, 3334}, // 3333.3, and never faster than that
		// Below the smallest bucket.
		{mib, 0, 4 * mib, 4000},
		{mib, 2 * mib, 4 * mib, 4000},
		{1500, 0, 4 * mib, 2796203},
		{1, 0, 4 * mib, 4194304000},
		// At the ends of what a configuration can say.
		{1, 1<<63 - 1, 1e9, 1e12},
		{1<<63 - 1, 0, 1<<63 - 1, 1000},
		{1 << 40, 1<<63 - 1, 1<<63 - 1, 8388608000},
	} {
		d := hypervisor.DiskConfig{Path: "/d", IOBps: c.bps, IOBurstBps: c.burst}
		require.NoError(t, d.Check())
		want := &api.RateLimiter{Bandwidth: &api.TokenBucket{Size: c.size, RefillTime: c.refill}}
		assert.Equal(t, want, limiter(d), "bps %d, burst %d", c.bps, c.burst)
	}
}

// A bucket does with tokens what Cloud Hypervisor does: a request that does not find its
// tokens waits for 100 ms and tries again; one that is larger than the bucket empties it, and
// then all wait for as long as what it lacked takes to come.
type bucket struct {
	*api.TokenBucket
	budget, now, last float64 // tokens, and milliseconds
}

func (b *bucket) take(n float64) {
	for {
		b.budget = min(b.budget+(b.now-b.last)*float64(b.Size)/float64(b.RefillTime), float64(b.Size))
		b.last = b.now
		switch {
		case n <= b.budget:
			b.budget -= n
			return
		case n > float64(b.Size):
			b.now += (n - b.budget) / float64(b.Size) * float64(b.RefillTime)
			b.budget = 0
			return
		}
		b.now += 100
	}
}

// TestLimiterKeeps lets a guest read through buckets as fast as it can, in requests of any
// size: it gets what it may have, and not more.
func TestLimiterKeeps(t *testing.T) {
	for _, d := range []hypervisor.DiskConfig{
		{IOBps: mib}, {IOBps: 2 * mib, IOBurstBps: 8 * mib}, {IOBps: 10 * mib}, {IOBps: 10e6, IOBurstBps: 35e6}, {IOBps: 1 << 30},
	} {
		for _, request := range []float64{512, 4096, 1280 << 10, 4 << 20} {
			b := bucket{TokenBucket: limiter(d).Bandwidth}
			b.budget = float64(b.Size)
			var got float64
			for b.now < 0.1 && got < float64(b.Size)-request {
				b.take(request)
				got += request
			}
			assert.Less(t, b.now, 0.1, "what may come at once does: %+v", d)
			atOnce := got
			const minute = 60e3
			for b.now < minute {
				b.take(request)
				got += request
			}
			rate := (got - atOnce) / b.now * 1000
			assert.LessOrEqual(t, rate, float64(d.IOBps)+request/60, "%+v in requests of %.0f", d, request)
			assert.Greater(t, rate, float64(d.IOBps)*0.97-request/60, "%+v in requests of %.0f", d, request)
		}
	}
}

// TestGrowDisk has a start make an image, and a VMM that runs or stands still grow it.
func TestGrowDisk(t *testing.T) {
	f := newFake(t, chtest.Config{})
	dir := t.TempDir()
	f.config.Disks = []hypervisor.DiskConfig{{Path: filepath.Join(dir, "a"), Size: 8 * mib}, {Path: filepath.Join(dir, "b"), Size: 8 * mib}}
	size := func(i int) int64 {
		fi, err := os.Stat(f.config.Disks[i].Path)
		require.NoError(t, err)
		return fi.Size()
	}
	require.NoError(t, f.start())
	assert.Equal(t, 8*mib, size(0))
	grow := func(i int, bytes int64) error { return f.GrowDisk(testContext(t), i, bytes) }
	require.NoError(t, grow(1, 16*mib))
	assert.Equal(t, 16*mib, size(1))
	assert.Equal(t, 8*mib, size(0))
	require.NoError(t, grow(1, 16*mib))

	// The VMM would shrink it, and would let the device of a paused VM go on.
	require.ErrorIs(t, grow(1, 8*mib), hypervisor.ErrInvalid)
	require.NoError(t, f.Pause(testContext(t)))
	require.ErrorIs(t, grow(1, 32*mib), hypervisor.ErrBusy)
	require.NoError(t, grow(1, 16*mib), "which it has")
	assert.Equal(t, 16*mib, size(1))
	require.NoError(t, f.Resume(testContext(t)))
	require.NoError(t, grow(0, 32*mib))

	rec, err := rundir.Read[record](f.dir.Dir)
	require.NoError(t, err)
	assert.Equal(t, 32*mib, rec.Config.Disks[0].Size, "a snapshot has what the disk got")
	assert.Equal(t, 16*mib, rec.Config.Disks[1].Size)
}

// TestResetFails has the disk of a guest be gone when it is to begin again: Cloud Hypervisor
// has ended it by then, and tells of that in no event.
func TestResetFails(t *testing.T) {
	f := newFake(t, chtest.Config{})
	f.config.Disks = []hypervisor.DiskConfig{{Path: filepath.Join(t.TempDir(), "a"), Size: 8 * mib}}
	require.NoError(t, f.start())
	require.NoError(t, os.Remove(f.config.Disks[0].Path))
	require.Error(t, f.Reset(testContext(t)))
	assert.Equal(t, hypervisor.StateShutdown, f.expect(hypervisor.EventShutdown).State)
}
