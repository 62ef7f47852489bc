//go:build linux

package vhostuser

import (
	"bytes"
	"encoding/binary"
	"io"
	"math"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestBrokenRings has the guest break the rules of its rings: its streams end,
// the device lives, and a new driver finds everything in order.
func TestBrokenRings(t *testing.T) {
	// tx announces a chain that begins with descriptor 100.
	tx := func(f func(r *fakeRing)) func(v *fakeVM) {
		return func(v *fakeVM) {
			f(&v.tx)
			v.tx.publish(100)
		}
	}
	const ok = highGuest + 1<<20
	for name, break_ := range map[string]func(v *fakeVM){
		"loop":         tx(func(r *fakeRing) { r.putDesc(100, ok, 44, 1, 100) }),
		"no memory":    tx(func(r *fakeRing) { r.putDesc(100, 1<<40, 44, 0, 0) }),
		"wraps around": tx(func(r *fakeRing) { r.putDesc(100, math.MaxUint64-10, 44, 0, 0) }),
		"past the end": tx(func(r *fakeRing) { r.putDesc(100, highGuest+highSize-10, 44, 0, 0) }),
		"writable":     tx(func(r *fakeRing) { r.putDesc(100, ok, 44, 2, 0) }),
		"next outside": tx(func(r *fakeRing) { r.putDesc(100, ok, 44, 1, ringNum) }),
		"bad table":    tx(func(r *fakeRing) { r.putDesc(100, ok, 17, 4, 0) }),
		"huge buffer":  tx(func(r *fakeRing) { r.putDesc(100, ok, math.MaxInt32, 0, 0) }),
		"table in table": tx(func(r *fakeRing) {
			r.putDesc(100, ok, 16, 4, 0)
			b := r.v.mem[txAt:]
			binary.LittleEndian.PutUint64(b, ok)
			binary.LittleEndian.PutUint32(b[8:], 16)
			binary.LittleEndian.PutUint32(b[12:], 4)
		}),
		"head outside": func(v *fakeVM) { v.tx.publish(ringNum) },
		"index jumps": func(v *fakeVM) {
			atomic.StoreUint32(v.word(v.tx.avail), uint32(v.tx.availIdx+ringNum+1)<<16)
			v.tx.kickNow()
		},
		"index goes back": func(v *fakeVM) {
			atomic.StoreUint32(v.word(v.tx.avail), uint32(v.tx.availIdx-1)<<16)
			v.tx.kickNow()
		},
		"rx not writable": func(v *fakeVM) {
			for i := range ringNum {
				v.rx.putDesc(i, ok, 4096, 0, 0)
			}
		},
		"rx too short": func(v *fakeVM) {
			for i := range ringNum {
				v.rx.putDesc(i, ok, headerSize, 2, 0)
			}
		},
		"rx no memory": func(v *fakeVM) {
			for i := range ringNum {
				v.rx.putDesc(i, 1<<50, 4096, 2, 0)
			}
		},
		"rx index jumps": func(v *fakeVM) { atomic.StoreUint32(v.word(v.rx.avail), uint32(v.rx.availIdx+999)<<16) },
	} {
		t.Run(name, func(t *testing.T) {
			v := newFakeVM(t, func(c *Config) { c.Logger = quiet })
			v.boot()
			c, p := v.connect(7)
			p.works(c)
			break_(v)
			_, _ = io.WriteString(c, "look at the rx ring") // an error: the stream has ended
			ended(t, c)
			st := v.status()
			assert.NotEmpty(t, st.Fault)
			assert.False(t, st.Running)
			_, err := v.hybrid().DialVsock(t.Context(), 7)
			require.Error(t, err)
			v.reset()
			v.echoes()
			assert.Empty(t, v.status().Fault)
		})
	}
}

// TestBreaches has the guest break the rules of the streams: the one concerned
// ends, and another goes on.
func TestBreaches(t *testing.T) {
	// rw is a packet with bytes whose header says what it should not.
	rw := func(change func(h *header)) func(v *fakeVM, p *peer) {
		return func(v *fakeVM, p *peer) {
			h := p.header(opRW)
			change(&h)
			v.send(h, []byte("some bytes"))
		}
	}
	for name, tt := range map[string]struct {
		do    func(v *fakeVM, p *peer)
		reset int // resets for the guest
		dies  bool
	}{
		"longer than it is":     {rw(func(h *header) { h.len = 11 }), 1, true},
		"4 GiB":                 {rw(func(h *header) { h.len = math.MaxUint32 }), 1, true},
		"connected again":       {func(v *fakeVM, p *peer) { p.send(opRequest, nil) }, 1, true},
		"answered again":        {func(v *fakeVM, p *peer) { p.send(opResponse, nil) }, 1, true},
		"operation 0":           {func(v *fakeVM, p *peer) { p.send(0, nil) }, 1, true},
		"operation 8":           {func(v *fakeVM, p *peer) { p.send(8, nil) }, 1, true},
		"operation 65535":       {func(v *fakeVM, p *peer) { p.send(0xffff, nil) }, 1, true},
		"after its end":         {func(v *fakeVM, p *peer) { p.shutdown(shutSend); p.send(opRW, []byte("x")) }, 1, true},
		"more than its credit":  {func(v *fakeVM, p *peer) { p.flood() }, 0, true},
		"shorter than it is":    {rw(func(h *header) { h.len = 3 }), 0, false},
		"a wild shutdown":       {func(v *fakeVM, p *peer) { p.shutdown(0xfffffffc) }, 0, false},
		"another guest's":       {rw(func(h *header) { h.srcCID, h.dstCID = 43, hostCID }), 0, false},
		"to another guest":      {rw(func(h *header) { h.srcCID, h.dstCID = cidOfTests, 43 }), 0, false},
		"with a CID of 64 bits": {rw(func(h *header) { h.srcCID, h.dstCID = cidOfTests|1<<32, hostCID }), 0, false},
		"another type":          {rw(func(h *header) { h.typ = 2 }), 1, false},
		"no such stream":        {rw(func(h *header) { h.dstPort++ }), 1, false},
		"no such port":          {rw(func(h *header) { h.srcPort += 100 }), 1, false},
		"reset of no stream":    {func(v *fakeVM, p *peer) { h := p.header(opReset); h.dstPort += 9; v.send(h, nil) }, 0, false},
		"half a header": {func(v *fakeVM, p *peer) {
			v.tx.putDesc(100, highGuest+1<<20, headerSize-1, 0, 0)
			v.tx.publish(100)
		}, 0, false},
		"an empty chain": {func(v *fakeVM, p *peer) {
			v.tx.putDesc(100, 0, 0, 0, 0)
			v.tx.publish(100)
		}, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			v := newFakeVM(t, nil)
			v.boot()
			c, p := v.connect(7)
			other, q := v.connect(8)
			tt.do(v, p)
			for range tt.reset {
				r := v.expect(opReset)
				assert.NotEqual(t, q.port, r.dstPort)
			}
			v.silence()
			if tt.dies {
				ended(t, c)
			} else {
				if name == "shorter than it is" {
					var b [3]byte
					_, err := io.ReadFull(c, b[:])
					require.NoError(t, err)
				}
				p.works(c)
			}
			q.works(other)
		})
	}
}

// flood sends more than the device allows, to a host that does not read, until
// it is reset for that.
func (p *peer) flood() {
	p.v.t.Helper()
	for range 100 {
		p.send(opRW, bytes.Repeat([]byte("x"), 60<<10))
		p.v.drained()
		for p.v.rx.peekUsed() > 0 {
			q, _ := p.v.recv(patience)
			if q.op == opReset {
				return
			}
			require.Equal(p.v.t, opCreditUpdate, q.op)
		}
	}
	require.Fail(p.v.t, "the device takes any number of bytes")
}

func (r *fakeRing) peekUsed() int {
	return int(uint16(atomic.LoadUint32(r.v.word(r.used))>>16) - r.usedIdx)
}

// TestJunkWithoutBuffers has the guest provoke answers and offer no room for
// them: its packets wait then, and nothing grows.
func TestJunkWithoutBuffers(t *testing.T) {
	v := newFakeVM(t, nil)
	v.boot()
	v.drainRx()
	sent := 0
	for ; sent < maxResets+txBurst+2*ringNum; sent++ {
		if !v.trySend(header{srcPort: uint32(sent), dstPort: 5, op: opRW}, nil, 10*moment) {
			break
		}
	}
	assert.Less(t, sent, maxResets+txBurst+slots+1)
	assert.GreaterOrEqual(t, sent, maxResets)
	a := v.status()
	time.Sleep(moment)
	assert.Less(t, v.status().Rounds-a.Rounds, uint64(8), "it waits without turning round")
	v.offerAll()
	for i := range sent {
		assert.EqualValues(t, i, v.expect(opReset).dstPort)
	}
	v.silence()
	v.echoes()
}

// drainRx takes all receive buffers away: each is used for a reset that the
// guest provokes, and not offered again.
func (v *fakeVM) drainRx() {
	v.t.Helper()
	for i := range slots {
		v.send(header{srcPort: uint32(i), dstPort: 1, op: opRW}, nil)
		_, _, ok := v.rx.waitUsed(patience)
		require.True(v.t, ok)
	}
}

// TestStorm has the guest kick without a reason, as fast as it can.
func TestStorm(t *testing.T) {
	v := newFakeVM(t, nil)
	v.boot()
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				v.tx.kickNow()
				v.rx.kickNow()
			}
		}
	}()
	for range 20 {
		v.echoes()
	}
	close(stop)
	<-done
}
