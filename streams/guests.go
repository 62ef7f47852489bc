package streams

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"vmfs/backends/hypervisor"
	"vmfs/internal/wait"
	"vmfs/machine"
	"vmfs/machine/events"
	"vmfs/vsock"
)

var (
	// ErrNotConnected means that a conversation has no stream.
	ErrNotConnected = errors.New("not connected")
	errClosed       = fmt.Errorf("vsock: %w", machine.ErrClosed)
)

// Guests holds the vsock streams of a host's guests.
type Guests struct {
	host   *machine.Host
	linger time.Duration
	ctx    context.Context // ends with close
	cancel context.CancelFunc

	mu     sync.Mutex     // guards what follows, and the fields of listener that say so
	wg     sync.WaitGroup // what runs; not added to once closed
	closed bool
	sub    *events.Subscription // nil before there is anything to end
	vms    map[*machine.VM]*guest
}

// guest is one VM's part. Guests.mu guards all of it.
type guest struct {
	streams   map[*Conn]struct{}
	convs     []*Conversation // by their numbers; nil is a number that is free
	lastConv  uint32          // the ID of the last one
	listeners map[uint32]*listener
	gone      time.Time // when the guest last began anew or ended
}

// New returns a Guests without streams. Linger is how long a stream that was closed
// after writes may take to deliver them and to reach its end; 0 is 30 s.
func New(host *machine.Host, linger time.Duration) *Guests {
	v := &Guests{host: host, linger: cmp.Or(linger, defaultLinger), vms: make(map[*machine.VM]*guest)}
	v.ctx, v.cancel = context.WithCancel(context.Background())
	return v
}

// spawn runs f in a goroutine that close waits for, unless it was called.
func (v *Guests) spawn(f func()) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		return false
	}
	v.wg.Go(f)
	return true
}

// of returns a VM's part, and sees to it that the VM is watched. mu is held.
func (v *Guests) of(vm *machine.VM) (*guest, error) {
	if v.closed {
		return nil, errClosed
	}
	if v.sub == nil {
		v.sub = v.host.Events().Subscribe()
		v.wg.Go(func() { v.watch(v.sub) })
	}
	m := v.vms[vm]
	if m == nil {
		m = &guest{
			streams:   make(map[*Conn]struct{}),
			listeners: make(map[uint32]*listener),
		}
		v.vms[vm] = m
	}
	return m, nil
}

// A device that does not answer has died, and is back in no time if its VM lives:
// no event tells of it, so a dial tries again for a while.
const (
	reviveFirst = 10 * time.Millisecond
	reviveMost  = 200 * time.Millisecond
	reviveWait  = 3 * time.Second
)

// Dial opens a stream to a port of the guest.
func (v *Guests) Dial(ctx context.Context, vm *machine.VM, port uint32) (*Conn, error) {
	v.mu.Lock()
	_, err := v.of(vm)
	v.mu.Unlock()
	if err != nil {
		return nil, err
	}
	pause := wait.Backoff{First: reviveFirst, Most: reviveMost}
	began := time.Now()
	until := began.Add(reviveWait)
	conn, err := vm.DialVsock(ctx, port)
	for errors.Is(err, vsock.ErrUnavailable) && time.Now().Before(until) {
		if err = pause.Wait(ctx); err == nil {
			began = time.Now()
			conn, err = vm.DialVsock(ctx, port)
		}
	}
	if err != nil {
		if ctx.Err() == nil {
			vm.RecordError(fmt.Sprint("vsock ", port), err)
		}
		return nil, err
	}
	return v.add(newConn(v, vm, port, conn, began, nil))
}

// add enters a new stream.
func (v *Guests) add(s *Conn) (*Conn, error) {
	v.mu.Lock()
	m, err := v.of(s.vm)
	if err != nil {
		v.mu.Unlock()
		s.end()
		return nil, err
	}
	m.streams[s] = struct{}{}
	gone := m.gone
	v.mu.Unlock()
	s.lose(gone, "the guest is gone")
	return s, nil
}

func (v *Guests) remove(s *Conn) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if m := v.vms[s.vm]; m != nil {
		delete(m.streams, s)
	}
}

// maxConvs is how many conversations a VM can have at a time.
const maxConvs = 4096

// maxConvID bounds the IDs of conversations: what serves them has room for 30 bits.
const maxConvID = 1 << 30

// Converse makes a conversation, which is open once. It has the lowest number that is
// free, so that opening many and closing them uses none up, and an ID that no other
// has or had lately, so that what was kept of one does not stand for another.
func (v *Guests) Converse(vm *machine.VM) (*Conversation, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	m, err := v.of(vm)
	if err != nil {
		return nil, err
	}
	number := slices.Index(m.convs, nil)
	if number < 0 {
		if number = len(m.convs); number == maxConvs {
			return nil, fmt.Errorf("vsock %s: it has %d conversations, the most that a VM can have: close some first: %w", vm.Name(), maxConvs, hypervisor.ErrBusy)
		}
		m.convs = append(m.convs, nil)
	}
	for taken := true; taken; {
		m.lastConv = (m.lastConv + 1) % maxConvID
		taken = slices.ContainsFunc(m.convs, func(c *Conversation) bool { return c != nil && c.id == m.lastConv })
	}
	c := &Conversation{
		v: v, vm: vm, id: m.lastConv, number: number, name: convName(number),
		opens: 1, changed: make(chan struct{}),
	}
	m.convs[number] = c
	return c, nil
}

func convName(number int) string { return "c" + strconv.Itoa(number) }

// Conversation returns the VM's conversation of that name, if it is there.
func (v *Guests) Conversation(vm *machine.VM, name string) (*Conversation, bool) {
	number, err := strconv.Atoi(strings.TrimPrefix(name, "c"))
	if err != nil || number < 0 || name != convName(number) {
		return nil, false
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if m := v.vms[vm]; m != nil && number < len(m.convs) && m.convs[number] != nil {
		return m.convs[number], true
	}
	return nil, false
}

// Conversations returns a VM's, in the order of their numbers.
func (v *Guests) Conversations(vm *machine.VM) []*Conversation {
	v.mu.Lock()
	defer v.mu.Unlock()
	if m := v.vms[vm]; m != nil {
		return slices.DeleteFunc(slices.Clone(m.convs), func(c *Conversation) bool { return c == nil })
	}
	return nil
}

func (v *Guests) forget(c *Conversation) {
	v.mu.Lock()
	defer v.mu.Unlock()
	m := v.vms[c.vm]
	if m == nil || c.number >= len(m.convs) || m.convs[c.number] != c {
		return
	}
	m.convs[c.number] = nil
	for n := len(m.convs); n > 0 && m.convs[n-1] == nil; n-- {
		m.convs = m.convs[:n-1]
	}
}

// watch ends the streams of guests that begin anew or end. Most of those end by
// themselves, sooner or later, with the device that carries them; this makes it
// sure, and soon.
func (v *Guests) watch(sub *events.Subscription) {
	for {
		r, err := sub.Next(v.ctx)
		if err != nil {
			return // the tree was closed, or the host was
		}
		switch r.Kind {
		case string(hypervisor.EventReset):
			v.guestGone(r, "reset", "the VM was reset", false)
		case string(hypervisor.EventShutdown), events.KindExited:
			v.guestGone(r, "ended", "the VM has ended", true)
		case events.KindDeleted:
			v.drop(r)
		}
	}
}

// guestGone ends the streams of a VM and, with the VMM, who waits for new ones: all
// that is older than the record which tells of it.
func (v *Guests) guestGone(r events.Event, reason, why string, ended bool) {
	vm, m := v.find(r.VM)
	if m == nil {
		return
	}
	v.mu.Lock()
	m.gone = r.Time
	streams := make([]*Conn, 0, len(m.streams))
	for s := range m.streams {
		streams = append(streams, s)
	}
	for _, l := range m.listeners {
		if ended && l.began.Before(r.Time) {
			l.fail(fmt.Errorf("vsock %s: listen on port %d: %s: %w", r.VM, l.port, why, hypervisor.ErrHypervisorNotRunning))
		}
	}
	v.mu.Unlock()
	n := 0
	for _, s := range streams {
		if s.lose(r.Time, why) {
			n++
		}
	}
	if n > 0 {
		vm.RecordVsock(hypervisor.Detail{Key: "streams", Value: strconv.Itoa(n)}, hypervisor.Detail{Key: "lost", Value: reason})
	}
}

func (v *Guests) find(name string) (*machine.VM, *guest) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for vm, m := range v.vms {
		if vm.Name() == name {
			return vm, m
		}
	}
	return nil, nil
}

// drop forgets a VM that was deleted.
func (v *Guests) drop(r events.Event) {
	v.guestGone(r, "ended", "the VM was deleted", true)
	vm, _ := v.find(r.VM)
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.vms, vm)
}

// Close ends all streams and what waits for one. Streams that were closed and
// still deliver may do so until ctx ends, and those that are open are cut.
func (v *Guests) Close(ctx context.Context) {
	v.mu.Lock()
	v.closed = true
	for _, m := range v.vms {
		for _, l := range m.listeners {
			l.fail(errClosed)
		}
	}
	v.mu.Unlock()
	v.cancel()
	idle := make(chan struct{})
	go func() { v.wg.Wait(); close(idle) }()
	select {
	case <-idle:
	case <-ctx.Done():
	}
	v.mu.Lock()
	var streams []*Conn
	for _, m := range v.vms {
		for s := range m.streams {
			streams = append(streams, s)
		}
	}
	v.mu.Unlock()
	for _, s := range streams {
		s.end()
	}
	<-idle
}
