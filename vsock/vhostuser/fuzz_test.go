//go:build linux

package vhostuser

import (
	"encoding/binary"
	"errors"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"vmfs/vsock/vhostuser/internal/virtq"
)

func FuzzHeader(f *testing.F) {
	var b [headerSize]byte
	(&header{srcCID: 42, dstCID: 2, srcPort: 7, dstPort: 1 << 30, len: 3, typ: 1, op: opRW, bufAlloc: 1 << 18}).encode(&b)
	f.Add(b[:])
	f.Add(make([]byte, headerSize))
	f.Fuzz(func(t *testing.T, in []byte) {
		var b, again [headerSize]byte
		copy(b[:], in)
		var h header
		h.decode(&b)
		h.encode(&again)
		require.Equal(t, b, again)
	})
}

// bench is a device without QEMU: its rings lie in memory of the test, and its
// rounds are made by hand.
type bench struct {
	t    testing.TB
	d    *Device
	mem  []byte
	rx   uint16     // avail index of the rx ring
	out  map[op]int // packets the guest got
	ends []int
}

func newBench(t testing.TB) *bench {
	dir := t.TempDir()
	d, err := New(Config{QEMUSocket: dir + "/q", HostSocket: "/nowhere/v", CID: cidOfTests, MaxStreams: 6, MaxBuffered: 256 << 10, Logger: quiet})
	require.NoError(t, err)
	b := &bench{t: t, d: d, out: map[op]int{}}
	d.poll, err = newPoller()
	require.NoError(t, err)
	d.arena, err = newArena(d.cfg.MaxBuffered/pageSize + 2*d.cfg.MaxStreams)
	require.NoError(t, err)
	d.table, d.lost, err = openTable(t.Context(), dir+"/state", cidOfTests, d.cfg.MaxStreams+maxResets)
	require.NoError(t, err)
	d.resident = &resident{}
	d.now = time.Now()
	b.mem, err = unix.Mmap(-1, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	require.NoError(t, err)
	m, err := virtq.NewMemory([]virtq.Region{{Data: b.mem}})
	require.NoError(t, err)
	for i := range d.rings {
		base := uint64(i) * 0x8000
		d.rings[i] = ring{kickFD: -1, callFD: -1, errFD: -1}
		d.rings[i].q, err = virtq.Start(m, virtq.Layout{Num: ringNum, Desc: base, Avail: base + 0x2000, Used: base + 0x4000})
		require.NoError(t, err)
	}
	for i := range ringNum {
		e := b.mem[16*i:]
		binary.LittleEndian.PutUint64(e, uint64(0x20000+i*1024))
		binary.LittleEndian.PutUint32(e[8:], 1024)
		binary.LittleEndian.PutUint16(e[12:], 2)
		binary.LittleEndian.PutUint16(b.mem[0x2004+2*i:], uint16(i))
	}
	b.rx = ringNum
	binary.LittleEndian.PutUint16(b.mem[0x2002:], b.rx)
	d.up, d.driver, d.known = true, true, true
	return b
}

func (b *bench) close() {
	d := b.d
	d.shutDown()
	require.Zero(b.t, d.count)
	require.Zero(b.t, d.granted)
	require.Zero(b.t, d.buffered)
	require.Zero(b.t, d.arena.used)
	require.Zero(b.t, d.handshakes)
	require.Empty(b.t, d.all)
	require.Empty(b.t, d.streams)
	require.True(b.t, d.control.empty() && d.data.empty() && d.greets.empty() && d.requests.empty() && d.lingers.empty())
	for _, fd := range b.ends {
		_ = unix.Close(fd)
	}
	d.poll.close()
	d.arena.close()
	d.table.close()
	_ = unix.Munmap(b.mem)
}

// round is what serve does between two waits, and the guest after it.
func (b *bench) round() {
	d := b.d
	require.NoError(b.t, d.poll.wait(0))
	before := d.rings[ringRx].q.Next()
	d.toGuest()
	require.True(b.t, d.up, "the rings are in order")
	d.timers()
	for n := d.rings[ringRx].q.Next() - before; n > 0; n-- {
		e := binary.LittleEndian.Uint32(b.mem[0x4004+8*int((d.rings[ringRx].q.Next()-n)%ringNum):])
		var h header
		h.decode((*[headerSize]byte)(b.mem[0x20000+1024*e:]))
		b.out[h.op]++
		// The same buffers are offered again in the order of their use.
		binary.LittleEndian.PutUint16(b.mem[0x2004+2*int(b.rx%ringNum):], uint16(e))
		b.rx++
		binary.LittleEndian.PutUint16(b.mem[0x2002:], b.rx)
	}
	d.rxDry = false
	b.check()
}

// check is what holds between any two packets.
func (b *bench) check() {
	d := b.d
	count, hands, granted, kept, slots := 0, 0, 0, 0, 0
	for s := range d.all {
		if s.state == handshaking {
			hands++
			continue
		}
		count++
		granted += int(s.recv.alloc)
		kept += s.kept.len
		if s.slot >= 0 {
			slots++
		}
		require.LessOrEqual(b.t, uint32(s.kept.len), s.recv.alloc)
		require.LessOrEqual(b.t, s.recv.got-s.recv.freed, s.recv.alloc)
		require.NotEqual(b.t, gone, s.state)
		require.Equal(b.t, s.state != draining, d.streams[s.key] == s)
		require.Equal(b.t, s.state == closing, s.fd < 0)
	}
	for _, r := range d.resets {
		if r.slot >= 0 {
			slots++
		}
	}
	require.Equal(b.t, count, d.count)
	require.Equal(b.t, hands, d.handshakes)
	require.Equal(b.t, granted, d.granted)
	require.Equal(b.t, kept, d.buffered)
	require.LessOrEqual(b.t, granted, d.cfg.MaxBuffered)
	require.LessOrEqual(b.t, count, d.cfg.MaxStreams)
	require.LessOrEqual(b.t, kept, d.arena.used*pageSize)
	require.Equal(b.t, (len(d.table.mem)-tableHead)/tableEntry, slots+len(d.table.free))
}

// connect makes a stream as accept does, of a host that says line.
func (b *bench) connect(line string) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	require.NoError(b.t, err)
	_ = unix.SetsockoptInt(fds[1], unix.SOL_SOCKET, unix.SO_SNDBUF, 4096)
	b.ends = append(b.ends, fds[0])
	s := &stream{dev: b.d, fd: fds[1], slot: -1, state: handshaking}
	b.d.all[s] = struct{}{}
	b.d.handshakes++
	b.d.greets.arm(s, b.d.now)
	require.True(b.t, b.d.watch(s))
	_, err = unix.Write(fds[0], []byte(line))
	require.NoError(b.t, err)
}

// guest passes a packet to the device, as from the tx ring.
func (b *bench) guest(h header, n int) {
	buf := b.mem[0x80000 : 0x80000+headerSize+n]
	h.encode((*[headerSize]byte)(buf))
	c := virtq.Chain{Segs: [][]byte{buf[:20], buf[20:]}, Len: len(buf)}
	b.d.packet(c)
}

// FuzzPackets plays a game of guest and hosts with a device: each four bytes of
// the input are a move. Whatever they do, the books must balance.
func FuzzPackets(f *testing.F) {
	const host, port = 0, 1 // as in moves
	for _, s := range [][]byte{
		// A stream from the host: connect, answer, bytes both ways, close.
		{0, 0, 0, 0, 16 + byte(opResponse), host, port, 0, 1, 0, 9, 0, 16 + byte(opRW), host, port, 50, 16 + byte(opShutdown), host, port, 3},
		// Refused; answered twice; more than the credit.
		{0, 0, 0, 0, 16 + byte(opReset), host, port, 0},
		{0, 0, 0, 0, 16 + byte(opResponse), host, port, 0, 16 + byte(opResponse), host, port, 0},
		{0, 0, 0, 0, 16 + byte(opResponse), host, port, 0, 16 + byte(opRW), host, port, 255, 16 + byte(opRW), host, port, 255,
			16 + byte(opRW), host, port, 255, 2, 0, 0, 0, 16 + byte(opRW), host, port, 255},
		// The host half-closes, and closes; the guest shuts down in two steps.
		{0, 0, 0, 0, 16 + byte(opResponse), host, port, 0, 3, 0, 0, 0, 16 + byte(opShutdown), host, port, 2, 4, 0, 0, 0},
		{0, 0, 0, 0, 16 + byte(opResponse), host, port, 0, 16 + byte(opShutdown), host, port, 1, 16 + byte(opShutdown), host, port, 2},
		// Streams up to the limit, timers, a reset of the VM.
		{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 200, 6, 0, 0, 0},
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, moves []byte) {
		b := newBench(t)
		defer b.close()
		end := func(i byte) int {
			if len(b.ends) == 0 {
				return -1
			}
			return b.ends[int(i)%len(b.ends)]
		}
		buf := make([]byte, 8192)
		for ; len(moves) >= 4 && len(b.ends) < 40; moves = moves[4:] {
			m := moves[:4]
			switch k := m[0]; {
			case k == 0:
				b.connect("CONNECT 1\n")
			case k == 1:
				_, _ = unix.Write(end(m[1]), buf[:int(m[2])*16])
			case k == 2:
				for range int(m[2]) + 1 {
					if n, err := unix.Read(end(m[1]), buf); n <= 0 || err != nil {
						break
					}
				}
			case k == 3:
				_ = unix.Shutdown(end(m[1]), int(m[2])%3)
			case k == 4:
				if len(b.ends) > 0 {
					i := int(m[1]) % len(b.ends)
					_ = unix.Close(b.ends[i])
					b.ends = append(b.ends[:i], b.ends[i+1:]...)
				}
			case k == 5:
				b.d.now = b.d.now.Add(time.Duration(m[3]) * time.Second)
			case k == 6:
				b.d.guestGone("a move")
				b.d.driver = true
			case k == 7:
				b.connect("CONNECT x\n")
			default:
				n := int(m[3]) * 250
				h := header{srcCID: cidOfTests, dstCID: hostCID, srcPort: uint32(m[2] % 3), dstPort: firstHostPort + uint32(m[1]%8),
					len: uint32(n), typ: 1, op: op(k) - 16, flags: uint32(m[3]), bufAlloc: uint32(m[2]) << 8, fwdCnt: uint32(m[1]) << 4}
				if k >= 200 {
					h.typ, h.op = uint16(k), op(m[3])
				}
				b.guest(h, n)
			}
			b.round()
		}
	})
}

// FuzzFifo compares the queue of bytes with a plain one.
func FuzzFifo(f *testing.F) {
	f.Add([]byte{10, 200, 255, 3, 100, 100})
	f.Add([]byte{255, 255, 255, 255, 0, 1, 2, 3})
	f.Fuzz(func(t *testing.T, steps []byte) {
		a, err := newArena(16)
		require.NoError(t, err)
		defer a.close()
		var q fifo
		var model []byte
		next := byte(0)
		for i, st := range steps {
			if i%2 == 0 {
				p := make([]byte, int(st)*40)
				for j := range p {
					p[j] = next
					next++
				}
				had := q.len
				if err := q.write(a, p); err != nil {
					require.True(t, errors.Is(err, errArenaFull))
					p = p[:q.len-had]
				}
				model = append(model, p...)
			} else {
				n := min(int(st)*37, q.len)
				q.skip(a, n)
				model = model[n:]
			}
			require.Equal(t, len(model), q.len)
			at := 0
			for _, v := range q.iovecs(a, nil) {
				require.Equal(t, model[at:at+int(v.Len)], unsafeBytes(v))
				at += int(v.Len)
			}
			require.Equal(t, len(model), at)
			require.LessOrEqual(t, a.used, q.len/pageSize+2)
		}
		q.clear(a)
		require.Zero(t, a.used)
	})
}

func unsafeBytes(v unix.Iovec) []byte { return unsafe.Slice(v.Base, int(v.Len)) }
