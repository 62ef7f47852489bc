package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/vsock/bench"
)

// TestVsockSoak is the long test of streams through the tree: 1 GiB each way, with a
// pause of ten seconds in the middle, beside a reader that stops for a minute;
// 10,000 connects; and 512 streams at once each way. All that is sent is a pattern,
// against which the other end holds every byte.
func TestVsockSoak(t *testing.T) {
	if os.Getenv("VMFS_SOAK_VSOCK") == "" {
		t.Skip("takes minutes: make soak-vsock, or VMFS_SOAK_VSOCK=1 go test -count=1 -timeout 60m -run '^TestVsockSoak$' -v ./cmd/vmfs")
	}
	b, _ := newVsockBench(t)
	c := b.client()
	w := tree(c)
	step := func(what string, f func()) {
		begin := time.Now()
		f()
		fmt.Printf("%s: %v; the device has %.1f MiB resident, and had %.1f at most\n", what, time.Since(begin).Round(10*time.Millisecond),
			float64(vmStatus(t, b.device(), "VmRSS"))/1024, float64(vmStatus(t, b.device(), "VmHWM"))/1024)
	}
	move := func(what string, streams int, total int64) {
		f, err := bench.Transfer(w, what, streams, total)
		require.NoError(t, err)
		require.Zero(t, f.Lost)
		fmt.Printf("%d MiB %s by %d streams: %.0f MiB/s, the last one's time %.2f of the first one's\n", total>>20, what, streams, f.MiBs, f.Fair)
	}

	// It stops reading when the guest has begun to send.
	const stalled = 64 << 20
	still, err := w.Open(bench.PortSource)
	require.NoError(t, err)
	defer still.Close()
	first, err := bench.Get(still, 0, 1000, stalled)
	require.NoError(t, err)
	require.EqualValues(t, 1000, first)
	since := time.Now()
	for _, what := range []string{bench.ToGuest, bench.FromGuest} {
		step("a gigabyte, and a pause", func() {
			before := b.deviceStatus()
			var wg sync.WaitGroup
			wg.Go(func() { move(what, 1, 1<<30) })
			require.Eventually(t, func() bool {
				st := b.deviceStatus()
				return st.ToGuest-before.ToGuest > 256<<20 || st.ToHost-before.ToHost > 256<<20
			}, 10*patience, 50*time.Millisecond)
			b.must("write", "web/ctl", "pause")
			paused := b.deviceStatus()
			time.Sleep(10 * time.Second)
			now := b.deviceStatus()
			assert.Equal(t, []uint64{paused.ToGuest, paused.ToHost}, []uint64{now.ToGuest, now.ToHost}, "a guest that stands still")
			b.must("write", "web/ctl", "resume")
			wg.Wait()
		})
	}
	time.Sleep(time.Until(since.Add(time.Minute)))
	step("the reader that stood still", func() {
		got, err := bench.Get(still, 1000, stalled-1000, 0)
		require.NoError(t, err)
		require.EqualValues(t, stalled-1000, got)
		_, err = io.ReadFull(still, make([]byte, 1))
		require.ErrorIs(t, err, io.EOF)
	})
	step("10,000 connects", func() {
		before := b.deviceStatus().Opened
		_, err := bench.Connects(w, 8, 10000)
		require.NoError(t, err)
		assert.EqualValues(t, 10000, b.deviceStatus().Opened-before)
	})
	step("512 streams", func() {
		move(bench.ToGuest, 512, 512<<20)
		move(bench.FromGuest, 512, 512<<20)
	})
	require.NoError(t, still.Close())
	require.Eventually(t, func() bool { st := b.deviceStatus(); return st.Streams == 0 && st.Buffered == 0 },
		patience, 100*time.Millisecond, "no stream is left")
	st := b.deviceStatus()
	time.Sleep(2 * time.Second)
	assert.Less(t, b.deviceStatus().Rounds-st.Rounds, uint64(20), "an idle device does nothing")
}
