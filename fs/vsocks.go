package fs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"vmfs/backends/hypervisor"
	"vmfs/machine"
	"vmfs/machine/events"
	"vmfs/vsock"
)

var (
	errNotConnected = errors.New("not connected")
	// errTreeClosed is an ErrClosed of machine, as which it is an EIO.
	errTreeClosed = fmt.Errorf("vsock: %w", machine.ErrClosed)
)

// vsocks is what the tree holds of the guests' streams.
type vsocks struct {
	host   *machine.Host
	linger time.Duration
	ctx    context.Context // ends with close
	cancel context.CancelFunc

	mu     sync.Mutex     // guards what follows, and the fields of vsockListener that say so
	wg     sync.WaitGroup // what runs; not added to once closed
	closed bool
	sub    *events.Subscription // nil before there is anything to end
	vms    map[*machine.VM]*vmVsock
}

// vmVsock is one VM's part. vsocks.mu guards all of it.
type vmVsock struct {
	streams   map[*vsockStream]struct{}
	convs     map[string]*conversation
	nextConv  uint32
	listeners map[uint32]*vsockListener
	gone      time.Time // when the guest last began anew or ended
}

func newVsocks(host *machine.Host, linger time.Duration) *vsocks {
	v := &vsocks{host: host, linger: cmp.Or(linger, defaultLinger), vms: make(map[*machine.VM]*vmVsock)}
	v.ctx, v.cancel = context.WithCancel(context.Background())
	return v
}

// spawn runs f in a goroutine that close waits for, unless it was called.
func (v *vsocks) spawn(f func()) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		return false
	}
	v.wg.Go(f)
	return true
}

// of returns a VM's part, and sees to it that the VM is watched. mu is held.
func (v *vsocks) of(vm *machine.VM) (*vmVsock, error) {
	if v.closed {
		return nil, errTreeClosed
	}
	if v.sub == nil {
		v.sub = v.host.Events().Subscribe()
		v.wg.Go(func() { v.watch(v.sub) })
	}
	m := v.vms[vm]
	if m == nil {
		m = &vmVsock{
			streams:   make(map[*vsockStream]struct{}),
			convs:     make(map[string]*conversation),
			listeners: make(map[uint32]*vsockListener),
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

// dial opens a stream to a port of the guest.
func (v *vsocks) dial(ctx context.Context, vm *machine.VM, port uint32) (*vsockStream, error) {
	v.mu.Lock()
	_, err := v.of(vm)
	v.mu.Unlock()
	if err != nil {
		return nil, err
	}
	began := time.Now()
	until := began.Add(reviveWait)
	conn, err := vm.DialVsock(ctx, port)
	for pause := reviveFirst; errors.Is(err, vsock.ErrUnavailable) && time.Now().Before(until); pause = min(2*pause, reviveMost) {
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
			began = time.Now()
			conn, err = vm.DialVsock(ctx, port)
		case <-ctx.Done():
			timer.Stop()
			err = ctx.Err()
		}
	}
	if err != nil {
		if ctx.Err() == nil {
			vm.RecordError("vsock "+portName(port), err)
		}
		return nil, err
	}
	return v.add(newVsockStream(v, vm, port, conn, began, nil))
}

// add enters a new stream.
func (v *vsocks) add(s *vsockStream) (*vsockStream, error) {
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

func (v *vsocks) remove(s *vsockStream) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if m := v.vms[s.vm]; m != nil {
		delete(m.streams, s)
	}
}

// converse makes a conversation and returns a fid's end of its ctl.
func (v *vsocks) converse(vm *machine.VM) (stream, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	m, err := v.of(vm)
	if err != nil {
		return nil, err
	}
	if m.nextConv >= maxConv {
		return nil, fmt.Errorf("vsock %s: no more conversations while this server runs: %w", vm.Name(), hypervisor.ErrBusy)
	}
	c := &conversation{
		v: v, vm: vm, id: m.nextConv, name: "c" + strconv.FormatUint(uint64(m.nextConv), 10),
		opens: 1, changed: make(chan struct{}),
	}
	m.nextConv++
	m.convs[c.name] = c
	return &convCtl{c: c, rest: rest(c.name + "\n")}, nil
}

// maxConv is how many conversations a VM can have one after the other, as many as
// there are qids. Their names are not used again, so that who is late finds
// nothing instead of somebody else's stream.
const maxConv = 1 << 30

func (v *vsocks) conversation(vm *machine.VM, name string) (*conversation, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if m := v.vms[vm]; m != nil {
		c, ok := m.convs[name]
		return c, ok
	}
	return nil, false
}

// conversations returns a VM's, the oldest first.
func (v *vsocks) conversations(vm *machine.VM) []*conversation {
	v.mu.Lock()
	defer v.mu.Unlock()
	var list []*conversation
	if m := v.vms[vm]; m != nil {
		for _, c := range m.convs {
			list = append(list, c)
		}
	}
	slices.SortFunc(list, func(a, b *conversation) int { return cmp.Compare(a.id, b.id) })
	return list
}

func (v *vsocks) forget(c *conversation) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if m := v.vms[c.vm]; m != nil {
		delete(m.convs, c.name)
	}
}

// watch ends the streams of guests that begin anew or end. Most of those end by
// themselves, sooner or later, with the device that carries them; this makes it
// sure, and soon.
func (v *vsocks) watch(sub *events.Subscription) {
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
func (v *vsocks) guestGone(r events.Event, reason, why string, ended bool) {
	vm, m := v.find(r.VM)
	if m == nil {
		return
	}
	v.mu.Lock()
	m.gone = r.Time
	streams := make([]*vsockStream, 0, len(m.streams))
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

func (v *vsocks) find(name string) (*machine.VM, *vmVsock) {
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
func (v *vsocks) drop(r events.Event) {
	v.guestGone(r, "ended", "the VM was deleted", true)
	vm, _ := v.find(r.VM)
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.vms, vm)
}

// close is Tree.Close.
func (v *vsocks) close(ctx context.Context) {
	v.mu.Lock()
	v.closed = true
	for _, m := range v.vms {
		for _, l := range m.listeners {
			l.fail(errTreeClosed)
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
	var streams []*vsockStream
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
