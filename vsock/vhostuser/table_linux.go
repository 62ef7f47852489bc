package vhostuser

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"vmfs/internal/flock"
)

// key names a stream by its ports on the host and in the guest.
type key struct{ host, guest uint32 }

// table is the file with the connections the guest knows of. It is mapped, so
// that what is in it is there after a SIGKILL. It has a head of 32 bytes:
// magic, CID, the next port for the host's end; then 8 bytes for each slot: the ports of a connection, or zeros.
type table struct {
	f    *os.File
	mem  []byte
	free []int32
	path string
}

const (
	tableMagic = "vmfsvsk1"
	tableHead  = 32
	tableEntry = 8

	// The host's ends of connections have ports from firstHostPort on, out of
	// the way of ports that people listen on.
	firstHostPort = 1 << 30
	hostPorts     = 1 << 30

	// lockPatience bounds the wait for a predecessor that is dying.
	lockPatience = 2 * time.Second
)

// ErrRunning says that another process is the device of this VM.
var ErrRunning = errors.New("another device process serves this VM")

// openTable locks and maps the file at path, making it if need be, and returns
// the connections a dead predecessor left, which keep their slots.
func openTable(ctx context.Context, path string, cid int64, slots int) (t *table, left map[int32]key, err error) {
	waiting, cancel := context.WithTimeout(ctx, lockPatience)
	f, err := flock.File(waiting, path)
	cancel()
	if err != nil {
		if errors.Is(err, flock.ErrLocked) && ctx.Err() == nil {
			err = fmt.Errorf("%s: %w", path, ErrRunning)
		}
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
		}
	}()
	fi, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	// A file with more slots than asked for stays as it is: connections may
	// be anywhere in it.
	const limit = tableHead + tableEntry<<17
	size := max(fi.Size(), int64(tableHead+tableEntry*slots))
	if size > limit {
		return nil, nil, fmt.Errorf("%s is %d bytes long: not a table of connections; remove it", path, size)
	}
	if err := f.Truncate(size); err != nil {
		return nil, nil, err
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, nil, os.NewSyscallError("mmap", err)
	}
	t = &table{f: f, mem: mem, path: path}
	if fi.Size() == 0 {
		copy(mem, tableMagic)
		binary.LittleEndian.PutUint64(mem[8:], uint64(cid))
		binary.LittleEndian.PutUint32(mem[16:], firstHostPort)
	}
	if string(mem[:8]) != tableMagic {
		t.close()
		return nil, nil, fmt.Errorf("%s is not a table of connections; remove it", path)
	}
	sameGuest := binary.LittleEndian.Uint64(mem[8:]) == uint64(cid)
	binary.LittleEndian.PutUint64(mem[8:], uint64(cid))

	left = map[int32]key{}
	for i := int32((len(mem)-tableHead)/tableEntry) - 1; i >= 0; i-- {
		e := t.entry(i)
		k := key{binary.LittleEndian.Uint32(e), binary.LittleEndian.Uint32(e[4:])}
		switch {
		case k == key{}:
			t.free = append(t.free, i)
		case sameGuest:
			left[i] = k
		default:
			t.clear(i)
		}
	}
	return t, left, nil
}

// Holder returns the pid of the process that is the device of the VM with this host
// socket, be it that nobody can reach it there, and 0 if there is none. It is what
// the kernel says of the lock on the table, and not what the device says of itself.
func Holder(ctx context.Context, hostSocket string) (pid int, err error) {
	ctx, cancel := context.WithTimeout(ctx, lockPatience)
	defer cancel()
	if pid, err = flock.Holder(ctx, statePath(hostSocket)); err != nil {
		return 0, fmt.Errorf("vsock device: who serves %s: %w", hostSocket, err)
	}
	return pid, nil
}

func (t *table) entry(i int32) []byte { return t.mem[tableHead+tableEntry*int(i):][:tableEntry] }

// put records a connection. It reports false if there is no slot.
func (t *table) put(k key) (int32, bool) {
	n := len(t.free)
	if n == 0 {
		return -1, false
	}
	i := t.free[n-1]
	t.free = t.free[:n-1]
	e := t.entry(i)
	// The guest's port last: it is never 0 in an entry that counts, and half
	// an entry is no connection that exists.
	binary.LittleEndian.PutUint32(e, k.host)
	binary.LittleEndian.PutUint32(e[4:], k.guest)
	return i, true
}

// clear forgets the connection of a slot; -1 is none.
func (t *table) clear(i int32) {
	if i >= 0 {
		clear(t.entry(i))
		t.free = append(t.free, i)
	}
}

// port returns the next port for the host's end of a connection. A successor
// goes on from there, so that it does not meet its predecessor's connections.
func (t *table) port() uint32 {
	p := binary.LittleEndian.Uint32(t.mem[16:])
	if p < firstHostPort {
		p = firstHostPort
	}
	binary.LittleEndian.PutUint32(t.mem[16:], firstHostPort+(p-firstHostPort+1)%hostPorts)
	return p
}

// close unlocks the file and leaves it there.
func (t *table) close() {
	_ = unix.Munmap(t.mem)
	_ = t.f.Close()
}

// remove is for when there is no connection and no VM any more.
func (t *table) remove() {
	_ = os.Remove(t.path)
	t.close()
}
