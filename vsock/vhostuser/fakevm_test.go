//go:build linux

package vhostuser

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"vmfs/vsock"
)

// patience is how long what must happen may take. The machine may be busy.
const patience = 60 * time.Second

// moment is how long to watch for what must not happen.
const moment = 30 * time.Millisecond

// fakeVM is QEMU's end of the vhost-user connection and the guest's driver,
// over a memfd. What it says is built here from the specifications, apart from
// the code under test.
type fakeVM struct {
	t       testing.TB
	cfg     Config
	ln      *net.UnixListener
	conn    *net.UnixConn
	memfd   int
	mem     []byte
	regions []fakeRegion

	features uint64
	rx, tx   fakeRing
	style    rxStyle

	dev    *Device
	cancel context.CancelFunc
	done   chan struct{}
	err    error // of Run, once done is closed

	mu sync.Mutex // guards tx: several goroutines may send
}

type fakeRegion struct{ guest, size, user, offset uint64 }

// The fake guest's memory: rings in low memory, buffers in high memory.
const (
	cidOfTests = 42

	lowGuest, lowUser, lowSize    = 0, 0x7f00_0000_0000, 1 << 20
	highGuest, highUser, highSize = 1 << 32, 0x7f10_0000_0000, 7 << 20

	ringNum = 128
	slots   = ringNum / 2 // chains of two descriptors
	txBuf   = 65 << 10
	txAt    = lowSize + 1<<20 // where buffers are in the file
	rxAt    = lowSize
)

// rxStyle is how the guest makes up its receive buffers.
type rxStyle struct {
	bytes    int  // of a buffer, header included
	one      bool // in one descriptor, as Linux 6.12 does, or header and rest apart, as 6.1
	indirect bool // in a table
	pieces   int  // of the header, to be awkward
}

var linux61, linux612 = rxStyle{bytes: headerSize + 4096}, rxStyle{bytes: 3776, one: true}

// fakeRing is the driver's side of a ring.
type fakeRing struct {
	v                 *fakeVM
	desc, avail, used int // offsets in the memory
	availIdx, usedIdx uint16
	kick, call        int
	free              []int // slots of tx
}

// word is a 32-bit word of the guest's memory.
func (v *fakeVM) word(off int) *uint32 { return (*uint32)(unsafe.Pointer(&v.mem[off])) }

// newFakeVM starts a device with a VM that has not started its driver.
func newFakeVM(t testing.TB, change func(*Config)) *fakeVM {
	t.Helper()
	dir := shortDir(t)
	v := &fakeVM{t: t, style: linux61, features: 1<<32 | 1<<30 | 1<<29 | 1<<28}
	v.cfg = Config{QEMUSocket: filepath.Join(dir, "q"), HostSocket: filepath.Join(dir, "v"), CID: cidOfTests,
		ReconnectTimeout: 50 * time.Millisecond, ConnectTimeout: patience, Logger: testLog(t)}
	if change != nil {
		change(&v.cfg)
	}
	var err error
	v.memfd, err = unix.MemfdCreate("guest", unix.MFD_CLOEXEC)
	require.NoError(t, err)
	require.NoError(t, unix.Ftruncate(v.memfd, lowSize+highSize))
	v.mem, err = unix.Mmap(v.memfd, 0, lowSize+highSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	require.NoError(t, err)
	v.regions = []fakeRegion{{lowGuest, lowSize, lowUser, 0}, {highGuest, highSize, highUser, lowSize}}
	l, err := net.Listen("unix", v.cfg.QEMUSocket)
	require.NoError(t, err)
	v.ln = l.(*net.UnixListener)
	t.Cleanup(func() {
		v.stop()
		v.hangUp()
		_ = unix.Munmap(v.mem)
		_ = unix.Close(v.memfd)
	})
	v.startDevice()
	return v
}

// testLog writes the device's log into the test's.
func testLog(t testing.TB) *slog.Logger {
	level := slog.LevelWarn
	if os.Getenv("VSOCK_TEST_DEBUG") != "" {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: level}))
}

// quiet is for tests in which the device has every reason to complain.
var quiet = slog.New(slog.DiscardHandler)

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Logf("device: %s", p)
	return len(p), nil
}

// startDevice runs a device and takes its connection.
func (v *fakeVM) startDevice() {
	v.t.Helper()
	d, err := New(v.cfg)
	require.NoError(v.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	v.dev, v.cancel, v.done = d, cancel, make(chan struct{})
	go func() {
		v.err = d.Run(ctx)
		close(v.done)
	}()
	v.accept()
}

func (v *fakeVM) accept() {
	v.t.Helper()
	require.NoError(v.t, v.ln.SetDeadline(time.Now().Add(patience)))
	c, err := v.ln.AcceptUnix()
	require.NoError(v.t, err)
	require.NoError(v.t, c.SetDeadline(time.Now().Add(patience)))
	v.conn = c
}

// stop ends the device as a signal would.
func (v *fakeVM) stop() {
	v.cancel()
	v.wait()
}

func (v *fakeVM) wait() {
	v.t.Helper()
	select {
	case <-v.done:
	case <-time.After(patience):
		v.t.Fatal("the device does not end")
	}
}

// hangUp is the end of QEMU.
func (v *fakeVM) hangUp() {
	_ = v.ln.Close()
	_ = v.conn.Close()
	for _, r := range []*fakeRing{&v.rx, &v.tx} {
		if r.v != nil {
			_ = unix.Close(r.kick)
			_ = unix.Close(r.call)
			r.v = nil
		}
	}
}

// ----- the protocol

func le32(vs ...uint32) (b []byte) {
	for _, x := range vs {
		b = binary.LittleEndian.AppendUint32(b, x)
	}
	return b
}

func le64(vs ...uint64) (b []byte) {
	for _, x := range vs {
		b = binary.LittleEndian.AppendUint64(b, x)
	}
	return b
}

// tell sends a request that has no answer.
func (v *fakeVM) tell(request, flags uint32, payload []byte, fds ...int) {
	v.t.Helper()
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	_, _, err := v.conn.WriteMsgUnix(append(le32(request, 1|flags, uint32(len(payload))), payload...), oob, nil)
	require.NoError(v.t, err)
}

// ask sends a request and returns the answer's payload.
func (v *fakeVM) ask(request, flags uint32, payload []byte, fds ...int) []byte {
	v.t.Helper()
	v.tell(request, flags, payload, fds...)
	var h [12]byte
	_, err := io.ReadFull(v.conn, h[:])
	require.NoError(v.t, err)
	require.Equal(v.t, le32(request, 5), h[:8])
	b := make([]byte, binary.LittleEndian.Uint32(h[8:]))
	_, err = io.ReadFull(v.conn, b)
	require.NoError(v.t, err)
	return b
}

// do sends a request and wants it acknowledged.
func (v *fakeVM) do(request uint32, payload []byte, fds ...int) {
	v.t.Helper()
	require.Equal(v.t, le64(0), v.ask(request, 8, payload, fds...), "request %d was refused", request)
}

func (v *fakeVM) setMemory() {
	v.t.Helper()
	b := le32(uint32(len(v.regions)), 0)
	var fds []int
	for _, r := range v.regions {
		b = append(b, le64(r.guest, r.size, r.user, r.offset)...)
		fds = append(fds, v.memfd)
	}
	v.do(5, b, fds...)
}

// meet is what QEMU says to a new device.
func (v *fakeVM) meet() {
	v.t.Helper()
	has := binary.LittleEndian.Uint64(v.ask(1, 0, nil))
	require.EqualValues(v.t, 1<<32|1<<30|1<<29|1<<28, has)
	proto := binary.LittleEndian.Uint64(v.ask(15, 0, nil))
	require.EqualValues(v.t, 1<<0|1<<3|1<<9, proto)
	v.tell(16, 0, le64(proto))
	require.Equal(v.t, le64(2), v.ask(17, 0, nil))
	v.tell(3, 0, nil)
	require.Equal(v.t, append(le32(0, 8, 0), le64(cidOfTests)...), v.ask(24, 0, append(le32(0, 8, 0), le64(0)...)))
}

// boot lets a driver start on fresh rings, with all its buffers offered.
func (v *fakeVM) boot() {
	v.t.Helper()
	v.meet()
	v.newRings()
	v.run()
	v.offerAll()
}

// newRings is what a driver makes before it is ready.
func (v *fakeVM) newRings() {
	for i, r := range []*fakeRing{&v.rx, &v.tx} {
		if r.v != nil {
			_ = unix.Close(r.kick)
			_ = unix.Close(r.call)
		}
		base := 0x1000 + i*0x8000
		*r = fakeRing{v: v, desc: base, avail: base + 0x2000, used: base + 0x4000}
		clear(v.mem[base : base+0x8000])
		var err error
		r.kick, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
		require.NoError(v.t, err)
		r.call, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
		require.NoError(v.t, err)
	}
	for i := range slots {
		v.tx.free = append(v.tx.free, i)
	}
}

// run starts the rings, wherever they are.
func (v *fakeVM) run() {
	v.t.Helper()
	v.tell(2, 0, le64(v.features))
	v.setMemory()
	for i, r := range []*fakeRing{&v.rx, &v.tx} {
		n := uint32(i)
		v.tell(8, 0, le32(n, ringNum))
		v.tell(10, 0, le32(n, uint32(uint16(*v.word(r.used)>>16))))
		v.tell(9, 0, append(le32(n, 0), le64(lowUser+uint64(r.desc), lowUser+uint64(r.used), lowUser+uint64(r.avail), 0)...))
		v.tell(12, 0, le64(uint64(n)), r.kick)
		v.tell(13, 0, le64(uint64(n)), r.call)
	}
	v.tell(18, 0, le32(0, 1))
	v.do(18, le32(1, 1))
}

// halt stops the rings, as QEMU does for a stop and for a reset alike.
func (v *fakeVM) halt() (rx, tx uint32) {
	v.t.Helper()
	v.tell(18, 0, le32(0, 0))
	v.tell(18, 0, le32(1, 0))
	a := v.ask(11, 0, le32(0, 0))
	b := v.ask(11, 0, le32(1, 0))
	return binary.LittleEndian.Uint32(a[4:]), binary.LittleEndian.Uint32(b[4:])
}

// reset restarts the guest.
func (v *fakeVM) reset() {
	v.t.Helper()
	v.halt()
	v.newRings()
	v.run()
	v.offerAll()
}

// ----- the driver

func (v *fakeVM) guestAddr(off int) uint64 { return highGuest + uint64(off-lowSize) }

func (r *fakeRing) putDesc(i int, addr uint64, n int, flags, next uint16) {
	b := r.v.mem[r.desc+16*i:]
	binary.LittleEndian.PutUint64(b, addr)
	binary.LittleEndian.PutUint32(b[8:], uint32(n))
	binary.LittleEndian.PutUint16(b[12:], flags)
	binary.LittleEndian.PutUint16(b[14:], next)
}

// publish announces head and kicks the device if it wants that.
func (r *fakeRing) publish(heads ...int) {
	old := r.availIdx
	for _, head := range heads {
		binary.LittleEndian.PutUint16(r.v.mem[r.avail+4+2*int(r.availIdx%ringNum):], uint16(head))
		r.availIdx++
	}
	atomic.StoreUint32(r.v.word(r.avail), uint32(r.availIdx)<<16)
	wants := atomic.LoadUint32(r.v.word(r.used))&1 == 0
	if r.v.features&(1<<29) != 0 {
		event := uint16(atomic.LoadUint32(r.v.word(r.used + 4 + 8*ringNum)))
		wants = r.availIdx-event-1 < r.availIdx-old
	}
	if wants {
		r.kickNow()
	}
}

func (r *fakeRing) kickNow() { notify(r.kick) }

// takeUsed returns the next chain that the device has handed back.
func (r *fakeRing) takeUsed() (head, n uint32, ok bool) {
	if uint16(atomic.LoadUint32(r.v.word(r.used))>>16) == r.usedIdx {
		return 0, 0, false
	}
	e := r.v.mem[r.used+4+8*int(r.usedIdx%ringNum):]
	r.usedIdx++
	return binary.LittleEndian.Uint32(e), binary.LittleEndian.Uint32(e[4:]), true
}

// waitUsed is takeUsed that sleeps until the device signals. It relies on the
// signal: a device that forgets one is found out.
func (r *fakeRing) waitUsed(wait time.Duration) (head, n uint32, ok bool) {
	deadline := time.Now().Add(wait)
	for {
		if head, n, ok = r.takeUsed(); ok {
			return head, n, true
		}
		if r.v.features&(1<<29) != 0 {
			atomic.StoreUint32(r.v.word(r.avail+4+2*ringNum), uint32(r.usedIdx))
			if head, n, ok = r.takeUsed(); ok {
				return head, n, true
			}
		}
		left := time.Until(deadline)
		if left <= 0 {
			return 0, 0, false
		}
		pfd := []unix.PollFd{{Fd: int32(r.call), Events: unix.POLLIN}}
		if _, err := unix.Poll(pfd, int(left.Milliseconds())+1); err != nil && !errors.Is(err, unix.EINTR) {
			return 0, 0, false
		}
		var b [8]byte
		_, _ = unix.Read(r.call, b[:])
	}
}

func (v *fakeVM) rxBuf(i int) int { return rxAt + i*(8<<10) }

// offer gives the device receive buffer i.
func (v *fakeVM) offer(is ...int) {
	for _, i := range is {
		at := v.guestAddr(v.rxBuf(i))
		r, d := &v.rx, 2*i
		switch {
		case v.style.indirect:
			// The table lies behind the buffer, with the header in pieces.
			tab := v.rxBuf(i) + 7<<10
			n, off := max(v.style.pieces, 1), 0
			for p := range n + 1 {
				m := headerSize / n
				if p == n-1 {
					m = headerSize - off
				}
				if p == n {
					m = v.style.bytes - headerSize
				}
				b := v.mem[tab+16*p:]
				binary.LittleEndian.PutUint64(b, at+uint64(off))
				binary.LittleEndian.PutUint32(b[8:], uint32(m))
				flags := uint16(3)
				if p == n {
					flags = 2
				}
				binary.LittleEndian.PutUint16(b[12:], flags)
				binary.LittleEndian.PutUint16(b[14:], uint16(p+1))
				off += m
			}
			r.putDesc(d, v.guestAddr(tab), 16*(n+1), 4, 0)
		case v.style.one:
			r.putDesc(d, at, v.style.bytes, 2, 0)
		default:
			r.putDesc(d, at, headerSize, 2|1, uint16(d+1))
			r.putDesc(d+1, at+headerSize, v.style.bytes-headerSize, 2, 0)
		}
	}
	heads := make([]int, len(is))
	for i := range is {
		heads[i] = 2 * is[i]
	}
	v.rx.publish(heads...)
}

func (v *fakeVM) offerAll() {
	all := make([]int, slots)
	for i := range all {
		all[i] = i
	}
	v.offer(all...)
}

// packet is one packet between guest and device.
type packet struct {
	header
	data []byte
}

// recv returns the next packet for the guest, and offers its buffer anew.
func (v *fakeVM) recv(wait time.Duration) (packet, bool) {
	v.t.Helper()
	head, n, ok := v.rx.waitUsed(wait)
	if !ok {
		return packet{}, false
	}
	p := v.rxPacket(int(head/2), int(n))
	v.offer(int(head / 2))
	return p, true
}

func (v *fakeVM) rxPacket(slot, n int) (p packet) {
	v.t.Helper()
	b := v.mem[v.rxBuf(slot):]
	p.decode((*[headerSize]byte)(b))
	require.EqualValues(v.t, hostCID, p.srcCID)
	require.EqualValues(v.t, cidOfTests, p.dstCID)
	require.Equal(v.t, headerSize+int(p.len), n, "length in the used ring")
	p.data = append([]byte(nil), b[headerSize:n]...)
	return p
}

// expect returns the next packet, which must be of this kind.
func (v *fakeVM) expect(o op) packet {
	v.t.Helper()
	p, ok := v.recv(patience)
	require.True(v.t, ok, "no packet came: want op %d", o)
	require.Equal(v.t, o, p.op, "%+v", p.header)
	return p
}

// silence checks that nothing comes for the guest.
func (v *fakeVM) silence() {
	v.t.Helper()
	if p, ok := v.recv(moment); ok {
		assert.Fail(v.t, "unexpected packet", "%+v", p.header)
	}
}

// send gives the device a packet; in a table if features allow it.
func (v *fakeVM) send(h header, data []byte) {
	v.t.Helper()
	require.True(v.t, v.trySend(h, data, patience), "the device does not take packets")
}

func (v *fakeVM) trySend(h header, data []byte, wait time.Duration) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	r := &v.tx
	for {
		head, _, ok := r.takeUsed()
		if !ok {
			break
		}
		r.free = append(r.free, int(head/2))
	}
	if len(r.free) == 0 {
		head, _, ok := r.waitUsed(wait)
		if !ok {
			return false
		}
		r.free = append(r.free, int(head/2))
	}
	slot := r.free[0]
	r.free = r.free[1:]

	if h.srcCID == 0 {
		h.srcCID, h.dstCID = cidOfTests, hostCID
	}
	if h.typ == 0 {
		h.typ = 1
	}
	if h.len == 0 {
		h.len = uint32(len(data))
	}
	off := txAt + slot*txBuf
	h.encode((*[headerSize]byte)(v.mem[off:]))
	n := headerSize + copy(v.mem[off+headerSize:off+txBuf-64], data)
	at, d := v.guestAddr(off), 2*slot
	if v.features&(1<<28) != 0 && slot%2 == 1 {
		// Every other packet through a table, cut in the middle of its header.
		tab := off + txBuf - 64
		for p, piece := range [][2]int{{0, 20}, {20, n - 20}} {
			b := v.mem[tab+16*p:]
			binary.LittleEndian.PutUint64(b, at+uint64(piece[0]))
			binary.LittleEndian.PutUint32(b[8:], uint32(piece[1]))
			binary.LittleEndian.PutUint16(b[12:], uint16(1-p))
			binary.LittleEndian.PutUint16(b[14:], 1)
		}
		r.putDesc(d, v.guestAddr(tab), 32, 4, 0)
	} else {
		r.putDesc(d, at, headerSize, 1, uint16(d+1))
		r.putDesc(d+1, at+headerSize, n-headerSize, 0, 0)
	}
	r.publish(d)
	return true
}

// drained waits until the device has handed back all packets.
func (v *fakeVM) drained() {
	v.t.Helper()
	r := &v.tx
	require.Eventually(v.t, func() bool {
		return uint16(atomic.LoadUint32(v.word(r.used))>>16) == r.availIdx
	}, patience, time.Millisecond)
}

// ----- the host

func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "vmfs")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func (v *fakeVM) hybrid() *vsock.Hybrid {
	return &vsock.Hybrid{Socket: v.cfg.HostSocket, Timeout: patience}
}

type dialled struct {
	c   vsock.Conn
	err error
}

// dialling connects to a port of the guest.
func (v *fakeVM) dialling(port int) <-chan dialled {
	ch := make(chan dialled, 1)
	go func() {
		c, err := v.hybrid().DialVsock(context.Background(), port)
		if err != nil {
			ch <- dialled{err: err}
			return
		}
		_ = c.SetDeadline(time.Now().Add(patience))
		ch <- dialled{c: c.(vsock.Conn)}
	}()
	return ch
}

// peer is the guest's view of a stream: what it puts into headers.
type peer struct {
	v          *fakeVM
	host, port uint32
	alloc, fwd uint32
}

func (p *peer) header(o op) header {
	return header{srcPort: p.port, dstPort: p.host, op: o, bufAlloc: p.alloc, fwdCnt: p.fwd}
}

func (p *peer) send(o op, data []byte) {
	p.v.t.Helper()
	p.v.send(p.header(o), data)
}

func (p *peer) shutdown(flags uint32) {
	p.v.t.Helper()
	h := p.header(opShutdown)
	h.flags = flags
	p.v.send(h, nil)
}

// connect opens a stream from the host to a port of the guest.
func (v *fakeVM) connect(port int) (vsock.Conn, *peer) {
	v.t.Helper()
	ch := v.dialling(port)
	q := v.expect(opRequest)
	require.EqualValues(v.t, port, q.dstPort)
	p := &peer{v: v, host: q.srcPort, port: q.dstPort, alloc: 256 << 10}
	p.send(opResponse, nil)
	d := <-ch
	require.NoError(v.t, d.err)
	v.t.Cleanup(func() { _ = d.c.Close() })
	return d.c, p
}

// connectHost opens a stream from the guest to a port of the host.
func (v *fakeVM) connectHost(l net.Listener, port uint32) (net.Conn, *peer, packet) {
	v.t.Helper()
	p := &peer{v: v, host: port, port: 50000 + port, alloc: 256 << 10}
	p.send(opRequest, nil)
	r := v.expect(opResponse)
	require.Equal(v.t, []uint32{p.host, p.port}, []uint32{r.srcPort, r.dstPort})
	c, err := l.Accept()
	require.NoError(v.t, err)
	_ = c.SetDeadline(time.Now().Add(patience))
	v.t.Cleanup(func() { _ = c.Close() })
	return c, p, r
}

func (v *fakeVM) listen(port int) net.Listener {
	v.t.Helper()
	l, err := v.hybrid().ListenVsock(context.Background(), port)
	require.NoError(v.t, err)
	v.t.Cleanup(func() { _ = l.Close() })
	return l
}

func (v *fakeVM) status() Status {
	v.t.Helper()
	st, err := GetStatus(context.Background(), v.cfg.HostSocket)
	require.NoError(v.t, err)
	return st
}

// settled waits until the device has no streams.
func (v *fakeVM) settled() {
	v.t.Helper()
	require.Eventually(v.t, func() bool { return v.status().Streams == 0 }, patience, 5*time.Millisecond)
	assert.Zero(v.t, v.status().Buffered)
}

// echoes checks that a stream works.
func (v *fakeVM) echoes() {
	v.t.Helper()
	c, p := v.connect(7)
	_, err := io.WriteString(c, "?")
	require.NoError(v.t, err)
	p.send(opRW, v.expect(opRW).data)
	var b [1]byte
	_, err = io.ReadFull(c, b[:])
	require.NoError(v.t, err)
	require.Equal(v.t, "?", string(b[:]))
	require.NoError(v.t, c.Close())
	require.EqualValues(v.t, shutBoth, v.expectShutdown()&shutBoth)
	p.send(opReset, nil)
}

// expectShutdown returns the flags of all shutdowns up to that of both sides
// or silence.
func (v *fakeVM) expectShutdown() uint32 {
	v.t.Helper()
	flags := v.expect(opShutdown).flags
	for flags != shutBoth {
		p, ok := v.recv(patience)
		require.True(v.t, ok)
		require.Equal(v.t, opShutdown, p.op)
		flags |= p.flags
	}
	return flags
}
