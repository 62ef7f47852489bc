//go:build linux

package vhostuser

import (
	"encoding/binary"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"vmfs/vsock"
)

// works checks that a stream that is there carries bytes both ways.
func (p *peer) works(c net.Conn) {
	p.v.t.Helper()
	_, err := io.WriteString(c, "ping")
	require.NoError(p.v.t, err)
	q := p.v.expect(opRW)
	require.Equal(p.v.t, "ping", string(q.data))
	require.Equal(p.v.t, p.port, q.dstPort)
	p.send(opRW, []byte("pong"))
	var b [4]byte
	_, err = io.ReadFull(c, b[:])
	require.NoError(p.v.t, err)
	require.Equal(p.v.t, "pong", string(b[:]))
}

func ended(t *testing.T, c net.Conn) {
	t.Helper()
	_, err := io.Copy(io.Discard, c)
	if err != nil {
		require.ErrorIs(t, err, syscall.ECONNRESET)
	}
}

func TestStopAndCont(t *testing.T) {
	v := newFakeVM(t, nil)
	v.boot()
	c, p := v.connect(7)
	p.works(c)
	for range 3 {
		rx, tx := v.halt()
		assert.EqualValues(t, v.rx.usedIdx, rx)
		assert.EqualValues(t, v.tx.availIdx, tx)
		assert.False(t, v.status().Running)
		// Both sides go on talking to a guest that stands still.
		_, err := io.WriteString(c, "while ")
		require.NoError(t, err)
		p.send(opRW, []byte("you were out"))
		_, err = io.WriteString(c, "you slept")
		require.NoError(t, err)
		early := v.dialling(8)
		v.silence()
		v.run()
		var got []byte
		var asked *peer
		for len(got) < len("while you slept") || asked == nil {
			q, ok := v.recv(patience)
			require.True(t, ok)
			if q.op == opRequest {
				asked = &peer{v: v, host: q.srcPort, port: q.dstPort, alloc: 100}
				continue
			}
			got = append(got, q.data...)
		}
		assert.Equal(t, "while you slept", string(got))
		b := make([]byte, len("you were out"))
		_, err = io.ReadFull(c, b)
		require.NoError(t, err)
		assert.Equal(t, "you were out", string(b))
		asked.send(opReset, nil)
		assert.ErrorIs(t, (<-early).err, vsock.ErrRefused)
		p.works(c)
	}
	assert.Zero(t, v.status().GuestResets)
}

func TestGuestReboots(t *testing.T) {
	v := newFakeVM(t, nil)
	v.boot()
	c, p := v.connect(7)
	p.works(c)
	half, q := v.connect(8)
	require.NoError(t, half.CloseWrite())
	v.expect(opShutdown)
	q.send(opRW, []byte("for you"))
	early := v.dialling(9)
	v.expect(opRequest)
	v.drained()

	v.reset()
	ended(t, c)
	b, _ := io.ReadAll(half)
	assert.Equal(t, "for you", string(b), "what came before the end is delivered")
	assert.ErrorIs(t, (<-early).err, vsock.ErrRefused)
	v.silence()
	assert.EqualValues(t, 1, v.status().GuestResets)
	v.settled()
	v.echoes()
}

func TestResetCommand(t *testing.T) {
	v := newFakeVM(t, nil)
	v.boot()
	c, p := v.connect(7)
	n, err := Reset(t.Context(), v.cfg.HostSocket)
	require.NoError(t, err)
	assert.Zero(t, n, "the rings run: nothing was reset")
	p.works(c)
	v.halt()
	n, err = Reset(t.Context(), v.cfg.HostSocket)
	require.NoError(t, err)
	assert.Equal(t, 1, n)
	ended(t, c)
	_, err = v.hybrid().DialVsock(t.Context(), 7)
	assert.ErrorIs(t, err, vsock.ErrRefused, "there is no driver now")
	v.newRings()
	v.run()
	v.offerAll()
	v.echoes()
}

// TestDeviceDies has a second device take over from one that was killed: what
// that leaves is the state file, and the rings in the guest's memory.
func TestDeviceDies(t *testing.T) {
	v := newFakeVM(t, nil)
	v.boot()
	c, p := v.connect(7)
	p.works(c)
	v.connect(8)
	l := v.listen(1234)
	v.connectHost(l, 1234)
	closed, q := v.connect(9)
	require.NoError(t, closed.Close())
	v.expectShutdown()
	q.send(opReset, nil)
	v.drained()
	require.Eventually(t, func() bool { return v.status().Streams == 3 }, patience, time.Millisecond)
	state, err := os.ReadFile(v.cfg.HostSocket + ".state")
	require.NoError(t, err)

	// A clean stop resets the streams; the guest is made not to see that.
	rx := v.rx
	low := append([]byte(nil), v.mem[:lowSize]...)
	v.stop()
	copy(v.mem, low)
	v.rx = rx
	require.NoError(t, os.WriteFile(v.cfg.HostSocket+".state", state, 0o600))
	_ = v.conn.Close()

	v.startDevice()
	v.meet()
	assert.False(t, v.status().Running)
	v.run()
	lost := map[uint32]bool{}
	for range 3 {
		r := v.expect(opReset)
		lost[r.dstPort] = true
		assert.Greater(t, r.srcPort, uint32(0))
	}
	assert.Equal(t, map[uint32]bool{7: true, 8: true, 51234: true}, lost)
	v.silence()
	st := v.status()
	assert.Equal(t, 3, st.LostStreams)
	assert.Zero(t, st.GuestResets)
	p.send(opRW, []byte("are you still there?"))
	v.expect(opReset)
	c2, p2 := v.connect(7)
	assert.Greater(t, p2.host, q.host, "the host's ports go on")
	p2.works(c2)
	v.echoes()
	v.drained()

	state, err = os.ReadFile(v.cfg.HostSocket + ".state")
	require.NoError(t, err)
	left := 0
	for i := tableHead; i < len(state); i += tableEntry {
		if binary.LittleEndian.Uint64(state[i:]) != 0 {
			left++
		}
	}
	assert.Equal(t, 1, left, "what was reset is forgotten")
}

// TestDeviceDiesWithTheGuest is a device that was killed before a reset.
func TestDeviceDiesWithTheGuest(t *testing.T) {
	v := newFakeVM(t, nil)
	v.boot()
	v.connect(7)
	state, err := os.ReadFile(v.cfg.HostSocket + ".state")
	require.NoError(t, err)
	v.stop()
	require.NoError(t, os.WriteFile(v.cfg.HostSocket+".state", state, 0o600))
	_ = v.conn.Close()
	v.startDevice()
	v.boot()
	v.silence()
	v.echoes()
}

func TestBadStateFile(t *testing.T) {
	dir := shortDir(t)
	for name, content := range map[string]string{
		"not ours": "something quite else that somebody keeps here, longer than the head of ours",
		"too long": string(make([]byte, 2<<20)),
	} {
		cfg := Config{QEMUSocket: dir + "/q", HostSocket: dir + "/v", StatePath: dir + "/state", CID: 3, Logger: testLog(t)}
		require.NoError(t, os.WriteFile(cfg.StatePath, []byte(content), 0o600))
		d, err := New(cfg)
		require.NoError(t, err)
		assert.ErrorContains(t, d.Run(t.Context()), "remove it", name)
	}
}

func TestReconnects(t *testing.T) {
	v := newFakeVM(t, func(c *Config) { c.ReconnectTimeout = patience })
	v.boot()
	c, p := v.connect(7)
	p.works(c)
	_ = v.conn.Close() // and the listener stays
	v.accept()
	v.run()
	p.works(c)
	v.silence()
	assert.Zero(t, v.status().GuestResets)
}

// TestMemoryAppears is memory hotplug under way.
func TestMemoryAppears(t *testing.T) {
	v := newFakeVM(t, nil)
	v.boot()
	c, p := v.connect(7)
	p.works(c)
	require.NoError(t, unix.Ftruncate(v.memfd, lowSize+highSize+1<<20))
	v.regions = append(v.regions, fakeRegion{highGuest + 1<<30, 1 << 20, highUser + 1<<30, lowSize + highSize})
	v.setMemory()
	p.works(c)
	// A packet that lies in the new memory.
	more, err := unix.Mmap(v.memfd, lowSize+highSize, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	require.NoError(t, err)
	defer func() { _ = unix.Munmap(more) }()
	h := p.header(opRW)
	h.srcCID, h.dstCID, h.typ, h.len = cidOfTests, hostCID, typeStream, 3
	h.encode((*[headerSize]byte)(more))
	copy(more[headerSize:], "new")
	v.tx.putDesc(126, highGuest+1<<30, headerSize+3, 0, 0)
	v.tx.publish(126)
	var b [3]byte
	_, err = io.ReadFull(c, b[:])
	require.NoError(t, err)
	assert.Equal(t, "new", string(b[:]))

	v.regions = v.regions[1:2] // the rings' memory goes: no QEMU does that
	b2 := le32(1, 0)
	b2 = append(b2, le64(highGuest, highSize, highUser, lowSize)...)
	assert.NotEqual(t, le64(0), v.ask(5, 8, b2, v.memfd))
	ended(t, c)
	assert.NotEmpty(t, v.status().Fault)
}

// TestProtocolMisuse has QEMU say what it should not.
func TestProtocolMisuse(t *testing.T) {
	refused := func(v *fakeVM, request uint32, payload []byte, fds ...int) {
		v.t.Helper()
		assert.NotEqual(v.t, le64(0), v.ask(request, 8, payload, fds...), "request %d", request)
	}
	v := newFakeVM(t, nil)
	v.meet()
	refused(v, 2, le64(1<<33))                                          // feature not offered
	refused(v, 16, le64(1<<15))                                         // protocol feature not offered
	refused(v, 99, nil)                                                 // no such request
	refused(v, 25, append(le32(0, 8, 0), le64(7)...))                   // SET_CONFIG
	refused(v, 8, le32(2, 128))                                         // no such ring
	refused(v, 12, le64(5), v.memfd)                                    // kick for no ring
	refused(v, 12, le64(1<<8))                                          // no kick at all
	refused(v, 5, append(le32(1, 0), le64(0, 4096, 0, 0)...))           // region without file
	refused(v, 5, append(le32(1, 0), le64(0, 1<<30, 0, 0)...), v.memfd) // longer than its file
	refused(v, 5, append(le32(1, 0), le64(0, 4096, 0, 1<<63)...), v.memfd)
	refused(v, 5, append(le32(1, 0), le64(0, 0, 0, 0)...), v.memfd)
	refused(v, 5, append(le32(1, 0), le64(0, 4096, 4, 0)...), v.memfd)
	refused(v, 5, append(le32(2, 0), le64(0, 8192, 0, 0, 4096, 8192, 1<<40, 0)...), v.memfd, v.memfd) // overlap
	// The configuration beyond its end reads as zeros.
	assert.Equal(t, append(le32(4, 8, 0), le64(0)...), v.ask(24, 0, append(le32(4, 8, 0), le64(9)...)))
	assert.Equal(t, append(le32(100, 8, 0), le64(0)...), v.ask(24, 0, append(le32(100, 8, 0), le64(9)...)))
	v.do(34, nil) // RESET_DEVICE
	v.boot()
	v.echoes()
	v.do(4, nil) // RESET_OWNER stops the rings
	assert.False(t, v.status().Running)

	for name, bad := range map[string]func(v *fakeVM){
		"not a message":   func(v *fakeVM) { v.tell(0x20676574, 0x74, nil) },
		"a wrong version": func(v *fakeVM) { v.tell(1, 2, nil) },
		"no base to get":  func(v *fakeVM) { v.tell(11, 0, le32(9, 0)) },
		"a bad config":    func(v *fakeVM) { v.tell(24, 0, le32(0, 99, 0)) },
	} {
		t.Run(name, func(t *testing.T) {
			v := newFakeVM(t, func(c *Config) { c.ReconnectTimeout = patience })
			v.boot()
			bad(v)
			_, err := v.conn.Read(make([]byte, 1))
			require.Error(t, err, "the device hangs up")
			_ = v.conn.Close()
			v.accept() // and comes again
			v.run()
			v.echoes()
		})
	}
}

// TestBadRings are addresses that only a broken driver sets.
func TestBadRings(t *testing.T) {
	v := newFakeVM(t, nil)
	v.meet()
	v.newRings()
	good := v.tx
	v.tx.used = lowSize + highSize // outside, but for QEMU to say
	v.tell(2, 0, le64(v.features))
	v.setMemory()
	for i, r := range []*fakeRing{&v.rx, &v.tx} {
		n := uint32(i)
		v.tell(8, 0, le32(n, ringNum))
		v.tell(9, 0, append(le32(n, 0), le64(lowUser+uint64(r.desc), lowUser+uint64(r.used), lowUser+uint64(r.avail), 0)...))
		v.tell(12, 0, le64(uint64(n)), r.kick)
		v.tell(13, 0, le64(uint64(n)), r.call)
	}
	v.tell(18, 0, le32(0, 1))
	assert.NotEqual(t, le64(0), v.ask(18, 8, le32(1, 1)))
	st := v.status()
	assert.False(t, st.Running)
	assert.Contains(t, st.Fault, "tx")
	_, err := v.hybrid().DialVsock(t.Context(), 7)
	require.ErrorIs(t, err, vsock.ErrRefused)
	v.tx = good
	v.halt()
	v.run()
	v.offerAll()
	v.echoes()
	assert.Empty(t, v.status().Fault)
}
