//go:build linux

package vhostuser

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/vsock"
	"vmfs/vsock/vhostuser/internal/testguest/pattern"
)

// TestGuests takes real guests through what happens to VMs. The steps build on
// each other.
func TestGuests(t *testing.T) {
	for _, series := range []string{"6.1", "6.12"} {
		t.Run(series, func(t *testing.T) {
			r := newRig(t, series)
			for _, step := range []struct {
				name string
				run  func(r *rig)
			}{
				{"streams", guestStreams}, {"from the guest", guestDials}, {"many", guestMany},
				{"stalled", guestStalled}, {"pause", guestPause}, {"device killed", guestDeviceKilled},
				{"device unplugged", guestUnplugged}, {"reset", guestReset}, {"quit", guestQuit},
			} {
				ok := t.Run(step.name, func(t *testing.T) {
					r.t = t
					step.run(r)
				})
				if !ok {
					break
				}
			}
		})
	}
}

func patternSum(seed uint64, n int64) string {
	h := sha256.New()
	_, _ = io.CopyN(h, pattern.New(seed), n)
	return hex.EncodeToString(h.Sum(nil))
}

func guestStreams(r *rig) {
	t := r.t
	const n = 16 << 20
	c := r.dial(portSum)
	_, err := io.CopyN(c, pattern.New(1), n)
	require.NoError(t, err)
	require.NoError(t, c.CloseWrite()) // the guest answers after our end
	b, err := io.ReadAll(c)
	require.NoError(t, err)
	assert.Equal(t, patternSum(1, n), string(b))

	c = r.dial(portSource)
	_, err = fmt.Fprintf(c, "2 %d\n", n)
	require.NoError(t, err)
	h := sha256.New()
	m, err := io.Copy(h, c)
	require.NoError(t, err)
	assert.EqualValues(t, n, m)
	assert.Equal(t, patternSum(2, n), hex.EncodeToString(h.Sum(nil)))

	require.NoError(t, exchange(r.dial(portEcho), 3, 4<<20))

	start := time.Now()
	for _, port := range []int{8, vsock.MaxPort} {
		_, err = r.hybrid.DialVsock(t.Context(), port)
		assert.ErrorIs(t, err, vsock.ErrRefused)
	}
	assert.Less(t, time.Since(start), patience/2)
	r.settled()
}

func guestDials(r *rig) {
	t := r.t
	l, err := r.hybrid.ListenVsock(t.Context(), 1234)
	require.NoError(t, err)
	defer func() { _ = l.Close() }()
	var wg sync.WaitGroup
	wg.Go(func() {
		c, err := l.Accept()
		if assert.NoError(t, err) {
			_, _ = io.Copy(c, c)
			_ = c.Close()
		}
	})
	c := r.dial(portDial)
	_, err = io.WriteString(c, "1234\n")
	require.NoError(t, err)
	ok := make([]byte, len("connected\n"))
	_, err = io.ReadFull(c, ok)
	require.NoError(t, err)
	require.Equal(t, "connected\n", string(ok))
	require.NoError(t, exchange(c, 4, 2<<20)) // through the guest and back, twice
	wg.Wait()

	answer := r.ask(portDial, "1235\n")
	assert.Contains(t, answer, "dial port 1235 of CID 2: connection refused")
	r.settled()
}

func guestMany(r *rig) {
	t := r.t
	for range 300 {
		c, err := r.hybrid.DialVsock(t.Context(), portHangUp)
		require.NoError(t, err)
		_, err = c.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF)
		require.NoError(t, c.Close())
	}
	var wg sync.WaitGroup
	for i := range 10 {
		c := r.dial(portEcho)
		wg.Go(func() { assert.NoError(t, exchange(c, uint64(i), 1<<20)) })
	}
	wg.Wait()
	_, most := r.rss()
	assert.Less(t, most, 16<<10, "KiB resident with 10 streams")

	conns := make([]vsock.Conn, 512)
	for i := range conns {
		conns[i] = r.dial(portEcho)
	}
	for i, c := range conns {
		wg.Go(func() { assert.NoError(t, exchange(c, uint64(i), 8<<10)) })
	}
	wg.Wait()
	_, most = r.rss()
	assert.Less(t, most, 48<<10, "KiB resident with 512 streams")
	r.settled()
}

// guestStalled has readers on both sides that stop reading, and goes on beside
// them.
func guestStalled(r *rig) {
	t := r.t
	toGuest := r.dial(portStalled)
	go func() {
		_, _ = io.WriteString(toGuest, "wait\n")
		_, _ = io.CopyN(toGuest, pattern.New(1), 4<<20)
		_ = toGuest.CloseWrite()
	}()
	const n = 2 << 20
	toHost := r.dial(portSource)
	_, err := fmt.Fprintf(toHost, "9 %d\n", n)
	require.NoError(t, err)
	r.waitStatus(func(st Status) bool { return st.Buffered > 0 })
	for i := range 3 {
		require.NoError(t, exchange(r.dial(portEcho), uint64(i), 2<<20))
	}
	assert.GreaterOrEqual(t, r.status().Streams, 2)
	h := sha256.New()
	_, err = io.Copy(h, toHost)
	require.NoError(t, err)
	assert.Equal(t, patternSum(9, n), hex.EncodeToString(h.Sum(nil)))
	_ = r.dial(portGoOn).Close()
	_, err = io.Copy(io.Discard, toGuest) // its end comes when all was read
	require.NoError(t, err)
	_ = toGuest.Close()
	_ = toHost.Close()
	r.settled()
}

func guestPause(r *rig) {
	t := r.t
	var wg sync.WaitGroup
	for i := range 2 {
		c := r.dial(portEcho)
		wg.Go(func() { assert.NoError(t, exchange(c, uint64(i), 8<<20)) })
	}
	before := r.status().ToGuest
	r.waitStatus(func(st Status) bool { return st.ToGuest > before })
	r.vm.QMP(`{"execute":"stop"}`)
	r.waitStatus(func(st Status) bool { return !st.Running })
	assert.Equal(t, 2, r.status().Streams)
	late := make(chan error, 1)
	go func() {
		c, err := r.hybrid.DialVsock(context.Background(), portHangUp)
		if err == nil {
			err = c.Close()
		}
		late <- err
	}()
	time.Sleep(500 * time.Millisecond) // of a pause
	r.vm.QMP(`{"execute":"cont"}`)
	wg.Wait()
	assert.NoError(t, <-late)
	r.settled()
}

// watched opens a stream each way that the guest reports the end of.
func (r *rig) watched(name string) {
	t := r.t
	l, err := r.hybrid.ListenVsock(t.Context(), 4321)
	require.NoError(t, err)
	defer func() { _ = l.Close() }()
	down := r.dial(portWatch)
	_, err = io.WriteString(down, name+"-down\nsix by")
	require.NoError(t, err)
	require.Equal(t, "<nil>\n", r.ask(portWatchUp, "%s-up 4321\n", name))
	up, err := l.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { _ = up.Close() })
	for range 2 {
		// The guest has the streams when it answers on another.
		r.works()
	}
}

// sees waits for the guest to report the ends of watched streams.
func (r *rig) sees(name string) {
	r.t.Helper()
	seen := map[string]bool{}
	for len(seen) < 2 {
		m := r.vm.Expect(regexp.MustCompile(`testguest: ` + name + `-(down|up) ended after \d+ bytes: (.*)\n`))
		seen[m[1]] = true
	}
}

func guestDeviceKilled(r *rig) {
	t := r.t
	r.watched("lost")
	idle := r.dial(portEcho)
	require.NoError(t, r.dev.Process.Kill())
	require.Error(t, r.exits())
	_, err := idle.Read(make([]byte, 1))
	require.Error(t, err)
	_, err = r.hybrid.DialVsock(t.Context(), portEcho)
	require.ErrorIs(t, err, vsock.ErrUnavailable)

	r.startDevice()
	r.waitStatus(func(st Status) bool { return st.QEMU })
	start := time.Now()
	r.vm.QMP(`{"execute":"stop"}`)
	r.vm.QMP(`{"execute":"cont"}`)
	r.waitStatus(func(st Status) bool { return st.Running })
	t.Logf("revived in %v", time.Since(start))
	r.works()
	r.sees("lost")
	assert.GreaterOrEqual(t, r.status().LostStreams, 3)
	r.settled()
}

// guestUnplugged takes the device out of the VM, as for a snapshot, and puts
// it back.
func guestUnplugged(r *rig) {
	t := r.t
	r.watched("unplugged")
	idle := r.dial(portEcho)
	r.vm.QMP(`{"execute":"device_del","arguments":{"id":"vsock0"}}`)
	r.waitStatus(func(st Status) bool { return !st.Running })
	_, err := Reset(t.Context(), r.host)
	require.NoError(t, err)
	_, err = idle.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
	_, err = r.hybrid.DialVsock(t.Context(), portEcho)
	require.ErrorIs(t, err, vsock.ErrRefused)
	r.sees("unplugged")
	require.Eventually(t, func() bool {
		return !strings.Contains(string(r.vm.QMP(`{"execute":"qom-list","arguments":{"path":"/machine/peripheral"}}`)), "vsock0")
	}, patience, 50*time.Millisecond)
	// QEMU lets go of the character device a moment after the device itself.
	require.Eventually(t, func() bool {
		_, err := r.vm.TryQMP(`{"execute":"device_add","arguments":{"driver":"vhost-user-vsock-pci","chardev":"vs","id":"vsock0","bus":"port0"}}`)
		return err == nil
	}, patience, 50*time.Millisecond)
	r.waitStatus(func(st Status) bool { return st.Running })
	require.Eventually(t, func() bool {
		c, err := r.hybrid.DialVsock(t.Context(), portEcho)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	}, patience, 50*time.Millisecond)
	r.works()
	r.settled()
}

func guestReset(r *rig) {
	t := r.t
	idle := r.dial(portEcho)
	busy := r.dial(portDiscard)
	done := make(chan error, 1)
	go func() {
		_, err := io.Copy(busy, pattern.New(1))
		done <- err
	}()
	before := r.status().GuestResets
	r.vm.QMP(`{"execute":"system_reset"}`)
	_, err := Reset(t.Context(), r.host)
	require.NoError(t, err)
	_, err = idle.Read(make([]byte, 1))
	require.Error(t, err)
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
	require.Error(t, <-done)
	r.vm.ExpectText("testguest: serving")
	r.works()
	assert.Greater(t, r.status().GuestResets, before)
	r.settled()
}

func guestQuit(r *rig) {
	t := r.t
	idle := r.dial(portEcho)
	r.vm.QMP(`{"execute":"quit"}`)
	_, err := io.Copy(io.Discard, idle)
	require.NoError(t, err)
	require.NoError(t, r.exits(), "the device ends with its VM, and well")
	assert.NoFileExists(t, r.host)
	assert.NoFileExists(t, r.host+".state")
}
