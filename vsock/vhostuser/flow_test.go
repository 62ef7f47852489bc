//go:build linux

package vhostuser

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/vsock"
	"vmfs/vsock/vhostuser/internal/testguest/pattern"
)

// The ports of the tests' guestStack.
func services(c *guestConn) {
	switch c.p.port {
	case 7:
		_, _ = io.Copy(c, c)
	case 9:
		_, _ = io.Copy(io.Discard, c)
	case 19:
		_, _ = io.Copy(c, pattern.New(1))
	case 21: // does nothing at all
		return
	}
	c.Close()
}

func (v *fakeVM) open(port int) vsock.Conn {
	v.t.Helper()
	d := <-v.dialling(port)
	require.NoError(v.t, d.err)
	v.t.Cleanup(func() { _ = d.c.Close() })
	return d.c
}

func TestCreditToGuest(t *testing.T) {
	v := newFakeVM(t, nil)
	v.boot()
	c, p := v.connect(1)
	p.alloc = 100
	p.send(opCreditUpdate, nil)
	v.drained()
	_, err := c.Write(make([]byte, 1000))
	require.NoError(t, err)
	for range 3 {
		assert.Len(t, v.expect(opRW).data, 100)
		v.silence()
		p.fwd += 40
		p.send(opCreditUpdate, nil)
		assert.Len(t, v.expect(opRW).data, 40)
		p.fwd += 100
		p.send(opCreditRequest, nil) // tells of room, and wants to hear of ours
		got := 0
		for asked := false; got < 100 || !asked; {
			q, ok := v.recv(patience)
			require.True(t, ok)
			asked = asked || q.op == opCreditUpdate
			got += len(q.data)
		}
		p.fwd += 100
		p.send(opCreditUpdate, nil)
	}
	// A guest that takes its room back, or claims more than it was given.
	assert.Len(t, v.expect(opRW).data, 100)
	p.alloc, p.fwd = 0, p.fwd+100
	p.send(opCreditUpdate, nil)
	v.silence()
	p.alloc, p.fwd = 1000, p.fwd+1
	p.send(opCreditUpdate, nil)
	v.silence()
	p.fwd--
	p.send(opCreditUpdate, nil)
	assert.NotEmpty(t, v.expect(opRW).data)
}

// TestAsksForRoom has a guest that tells of its room only when asked, as the
// specification lets it.
func TestAsksForRoom(t *testing.T) {
	v := newFakeVM(t, nil)
	v.boot()
	c, p := v.connect(1)
	p.alloc = 100
	p.send(opCreditUpdate, nil)
	v.drained()
	_, err := c.Write(make([]byte, 250))
	require.NoError(t, err)
	assert.Len(t, v.expect(opRW).data, 100)
	v.expect(opCreditRequest)
	p.fwd += 100
	p.send(opCreditUpdate, nil)
	assert.Len(t, v.expect(opRW).data, 100)
	v.expect(opCreditRequest)
	// The answer is that there is none: it is not asked again, and may still tell.
	p.send(opCreditUpdate, nil)
	time.Sleep(2 * starvedTimeout)
	v.silence()
	p.fwd += 100
	p.send(opCreditUpdate, nil)
	assert.Len(t, v.expect(opRW).data, 50)
	// Without bytes that wait there is nothing to ask for.
	p.alloc = 50
	p.send(opCreditUpdate, nil)
	time.Sleep(2 * starvedTimeout)
	v.silence()
	_, err = c.Write(make([]byte, 10))
	require.NoError(t, err)
	v.expect(opCreditRequest)
	// It ends as any other.
	require.NoError(t, c.Close())
	p.alloc = 1000
	p.send(opCreditUpdate, nil)
	assert.Len(t, v.expect(opRW).data, 10)
	assert.EqualValues(t, shutBoth, v.expectShutdown())
	p.send(opReset, nil)
	v.settled()
}

func TestCreditFromGuest(t *testing.T) {
	v := newFakeVM(t, nil)
	v.boot()
	ch := v.dialling(1)
	q := v.expect(opRequest)
	p := &peer{v: v, host: q.srcPort, port: 1, alloc: 1000}
	room := q.bufAlloc
	require.GreaterOrEqual(t, room, uint32(minStreamBuffer))
	p.send(opResponse, nil)
	d := <-ch
	require.NoError(t, d.err)
	defer func() { _ = d.c.Close() }()

	// The host does not read: exactly the room can be sent, and what the
	// socket takes is room again.
	var sent uint32
	src := pattern.New(3)
	fwd := uint32(0)
	for {
		n := min(room-(sent-fwd), 32<<10)
		if n == 0 {
			u, ok := v.recv(10 * moment)
			if !ok {
				break
			}
			require.Equal(t, opCreditUpdate, u.op)
			fwd, room = u.fwdCnt, u.bufAlloc
			continue
		}
		b := make([]byte, n)
		_, _ = src.Read(b)
		p.send(opRW, b)
		sent += n
	}
	st := v.status()
	assert.Equal(t, 1, st.Streams)
	assert.LessOrEqual(t, st.Buffered, int(room))
	assert.Positive(t, st.Buffered)
	time.Sleep(moment)
	assert.Less(t, v.status().Rounds-st.Rounds, uint64(8), "it waits without turning round")

	p.shutdown(shutSend)
	h := sha256.New()
	n, err := io.Copy(h, d.c)
	require.NoError(t, err)
	assert.EqualValues(t, sent, n)
	want := sha256.New()
	_, _ = io.Copy(want, io.LimitReader(pattern.New(3), int64(sent)))
	assert.Equal(t, want.Sum(nil), h.Sum(nil))
	assert.Zero(t, v.status().Buffered)
}

// TestDrainsAfterTheGuest delivers what was kept for a slow host after the
// guest has closed and gone.
func TestDrainsAfterTheGuest(t *testing.T) {
	v := newFakeVM(t, nil)
	v.boot()
	c, p := v.connect(1)
	total := 0
	for v.status().Buffered == 0 { // within the first credit
		p.send(opRW, make([]byte, minStreamBuffer))
		v.drained()
		total += minStreamBuffer
	}
	p.shutdown(shutBoth)
	for {
		if q, ok := v.recv(patience); !ok || q.op == opReset {
			require.True(t, ok)
			break
		}
	}
	v.reset() // even that
	assert.Equal(t, 1, v.status().Streams)
	n, err := io.Copy(io.Discard, c)
	require.NoError(t, err)
	assert.EqualValues(t, total, n)
	v.settled()

	// And a host that does not want it.
	c, p = v.connect(1)
	for v.status().Buffered == 0 {
		p.send(opRW, make([]byte, minStreamBuffer))
		v.drained()
	}
	p.shutdown(shutBoth)
	for {
		if q, ok := v.recv(patience); !ok || q.op == opReset {
			require.True(t, ok)
			break
		}
	}
	require.NoError(t, c.Close())
	v.settled()
}

// exchange sends n bytes to the guest's echo and checks them coming back.
func exchange(c vsock.Conn, seed uint64, n int64) error {
	var wg sync.WaitGroup
	var werr error
	wg.Go(func() {
		_, werr = io.Copy(c, io.LimitReader(pattern.New(seed), n))
		if err := c.CloseWrite(); werr == nil {
			werr = err
		}
	})
	got, want := sha256.New(), sha256.New()
	m, err := io.Copy(got, c)
	wg.Wait()
	_, _ = io.Copy(want, io.LimitReader(pattern.New(seed), n))
	switch {
	case err != nil || werr != nil:
		return fmt.Errorf("read: %w, write: %w", err, werr)
	case m != n:
		return fmt.Errorf("%d bytes came back of %d", m, n)
	case !bytes.Equal(got.Sum(nil), want.Sum(nil)):
		return fmt.Errorf("the bytes that came back are others")
	}
	return nil
}

func TestBulk(t *testing.T) {
	for name, style := range map[string]rxStyle{
		"6.1": linux61, "6.12": linux612, "tables": {bytes: 5000, indirect: true, pieces: 3},
	} {
		t.Run(name, func(t *testing.T) {
			v := newFakeVM(t, nil)
			v.style = style
			v.boot()
			v.stack(services)
			var wg sync.WaitGroup
			for i := range 4 {
				c := v.open(7)
				wg.Go(func() { assert.NoError(t, exchange(c, uint64(i), 3<<20)) })
			}
			wg.Wait()
			v.settled()
		})
	}
}

func TestManyStreams(t *testing.T) {
	v := newFakeVM(t, nil)
	v.boot()
	v.stack(services)
	var wg sync.WaitGroup
	conns := make([]vsock.Conn, 512)
	for i := range conns {
		conns[i] = v.open(7)
	}
	assert.Equal(t, 512, v.status().Streams)
	for i, c := range conns {
		wg.Go(func() { assert.NoError(t, exchange(c, uint64(i), 20<<10)) })
	}
	wg.Wait()
	v.settled()
}

// TestStalled has streams that stand still in each way, and looks at others.
func TestStalled(t *testing.T) {
	v := newFakeVM(t, nil)
	v.boot()
	v.stack(services)
	deaf := v.open(21) // the guest does not read
	for {
		require.NoError(t, deaf.SetWriteDeadline(time.Now().Add(10*moment)))
		if _, err := deaf.Write(make([]byte, 64<<10)); err != nil {
			break
		}
	}
	v.open(19) // we do not read
	require.Eventually(t, func() bool {
		a := v.status()
		time.Sleep(moment)
		b := v.status()
		// The two questions wake it, and nothing else does.
		return a.Buffered > 0 && a.ToHost == b.ToHost && b.Rounds-a.Rounds < 8
	}, patience, moment, "both stand still, and so does the device")
	for i := range 3 {
		require.NoError(t, exchange(v.open(7), uint64(i), 4<<20))
	}
}

func TestFairToGuest(t *testing.T) {
	const n = 16
	v := newFakeVM(t, nil)
	v.boot()
	v.stack(services)
	var counts [n]atomic.Int64
	var wg sync.WaitGroup
	var conns [n]vsock.Conn
	for i := range conns {
		conns[i] = v.open(9)
	}
	for i, c := range conns {
		wg.Go(func() {
			for b := make([]byte, 64<<10); ; {
				m, err := c.Write(b)
				if err != nil {
					return
				}
				counts[i].Add(int64(m))
			}
		})
	}
	require.Eventually(t, func() bool {
		for i := range counts {
			if counts[i].Load() < 2<<20 {
				return false
			}
		}
		return true
	}, patience, time.Millisecond)
	least, most := counts[0].Load(), counts[0].Load()
	for i := range counts {
		least, most = min(least, counts[i].Load()), max(most, counts[i].Load())
	}
	for _, c := range conns {
		_ = c.Close()
	}
	wg.Wait()
	assert.Less(t, float64(most)/float64(least), 2.0)
}

// TestMemoryIsBounded has a guest fill what is kept for hosts that do not read.
func TestMemoryIsBounded(t *testing.T) {
	const limit = 1 << 20
	v := newFakeVM(t, func(c *Config) { c.MaxBuffered = limit })
	v.boot()
	v.stack(services)
	var conns []vsock.Conn
	for {
		d := <-v.dialling(19)
		if d.err != nil {
			require.ErrorIs(t, d.err, vsock.ErrRefused)
			break
		}
		defer func() { _ = d.c.Close() }()
		conns = append(conns, d.c)
	}
	assert.GreaterOrEqual(t, len(conns), limit/DefaultStreamBuffer)
	assert.LessOrEqual(t, len(conns), limit/minStreamBuffer)
	most := 0
	for last := uint64(0); ; {
		st := v.status()
		most = max(most, st.Buffered)
		if st.ToHost == last {
			break
		}
		last = st.ToHost
		time.Sleep(moment)
	}
	assert.LessOrEqual(t, most, limit)
	assert.Greater(t, most, limit/4)
	for _, c := range conns { // each can go on
		_, err := io.CopyN(io.Discard, c, 2<<20)
		require.NoError(t, err)
		_ = c.Close()
	}
	v.settled()
	require.NoError(t, exchange(v.open(7), 1, 1<<20))
}

// TestPausedUnderWay stops and starts the rings in the middle of transfers.
func TestPausedUnderWay(t *testing.T) {
	v := newFakeVM(t, nil)
	v.boot()
	v.stack(services)
	var wg sync.WaitGroup
	for i := range 3 {
		c := v.open(7)
		wg.Go(func() { assert.NoError(t, exchange(c, uint64(i), 4<<20)) })
	}
	for range 5 {
		before := v.status().ToGuest
		require.Eventually(t, func() bool { return v.status().ToGuest > before || v.status().Streams == 0 }, patience, time.Millisecond)
		v.halt()
		a := v.status()
		time.Sleep(moment)
		b := v.status()
		assert.Equal(t, []uint64{a.ToGuest, a.ToHost}, []uint64{b.ToGuest, b.ToHost})
		v.run()
	}
	wg.Wait()
	v.settled()
}

// TestRebootsUnderWay resets the guest in the middle of transfers: each stream
// ends.
func TestRebootsUnderWay(t *testing.T) {
	v := newFakeVM(t, nil)
	v.boot()
	var wg sync.WaitGroup
	var conns []vsock.Conn
	for range 8 {
		c, p := v.connect(7)
		conns = append(conns, c)
		p.send(opRW, make([]byte, 1<<10))
	}
	for _, c := range conns {
		wg.Go(func() {
			for b := make([]byte, 1<<20); ; {
				if _, err := c.Write(b); err != nil {
					return
				}
			}
		})
		wg.Go(func() { _, _ = io.Copy(io.Discard, c) })
	}
	require.Eventually(t, func() bool { return v.rx.peekUsed() == slots }, patience, time.Millisecond)
	v.reset()
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatal("a stream did not end with the guest")
	}
	v.settled()
	v.echoes()
}

// TestHostEndsAnyhow has hosts end streams in the middle of bytes both ways.
func TestHostEndsAnyhow(t *testing.T) {
	v := newFakeVM(t, nil)
	v.boot()
	v.stack(services)
	for i, end := range []func(c vsock.Conn){
		func(c vsock.Conn) { _ = c.Close() },
		func(c vsock.Conn) { _ = c.CloseRead(); _ = c.Close() },
		func(c vsock.Conn) { _ = c.CloseWrite(); _ = c.Close() },
		func(c vsock.Conn) { _, _ = c.Read(make([]byte, 100)); _ = c.Close() },
	} {
		for _, port := range []int{7, 9, 19} {
			c := v.open(port)
			_ = c.SetDeadline(time.Now().Add(moment))
			_, _ = c.Write(make([]byte, 500<<10))
			end(c)
			v.settledWithin(t, fmt.Sprintf("end %d of port %d", i, port))
		}
	}
}

func (v *fakeVM) settledWithin(t *testing.T, what string) {
	t.Helper()
	require.Eventually(t, func() bool { return v.status().Streams == 0 }, patience, 2*time.Millisecond, what)
}
