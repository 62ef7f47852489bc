package vhostuser

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"vmfs/internal/unixsock"
	"vmfs/internal/wait"
	"vmfs/vsock/vhostuser/internal/virtq"
	"vmfs/vsock/vhostuser/internal/vumsg"
)

// Device is the vsock device of one VM. All its fields belong to the goroutine
// of Run.
type Device struct {
	cfg   Config
	log   *slog.Logger
	poll  *poller
	now   time.Time // at the beginning of the round
	stats Status

	// QEMU's side.
	qemu       *vumsg.Conn // nil while not connected
	qemuHandle handle
	retryAt    time.Time // when to try to connect, while not connected
	retry      wait.Backoff
	giveUpAt   time.Time
	metAt      time.Time // when QEMU was last connected, zero if never
	features   uint64
	mem        *guestMemory
	rings      [nRings]ring

	up      bool // the rings run
	known   bool // the rings' positions at the last stop are known
	driver  bool // the guest's driver has started, and was not seen to go
	faulty  bool // the guest has broken a ring
	txReady bool // there may be packets of the guest
	rxDry   bool // the guest has no buffers, and will kick when it has

	// The host's side.
	listenFD   int
	acceptAt   time.Time // when to accept on, if accepting was stopped
	handshakes int

	// Streams.
	streams                   map[key]*stream
	all                       map[*stream]struct{} // those, handshaking and draining
	count                     int                  // of all but handshaking
	granted                   int                  // credit of all streams
	buffered                  int                  // bytes kept for all hosts
	floor                     floor                // of the streams that the guest sends
	control, data             list
	greets, requests, lingers list
	starved                   list // of streams with bytes for a guest that has no room
	resets                    []resetPacket
	table                     *table
	lost                      map[int32]key // of a predecessor, to be reset
	arena                     *arena
	resident                  *resident
	warned                    time.Time

	// Scratch space of one round.
	segs   [][]byte
	iov    []unix.Iovec
	chains []virtq.Chain
}

// While QEMU's socket is not there, the device looks again after waits that
// grow from the first to the last of these.
const (
	firstRetry = 5 * time.Millisecond
	lastRetry  = 200 * time.Millisecond
)

// starvedTimeout is how long the guest may have no room for a stream's bytes before
// it is asked.
const starvedTimeout = 200 * time.Millisecond

// New returns a device for cfg, which it checks.
func New(cfg Config) (*Device, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("vsock device: %w", err)
	}
	if one := uint16(1); *(*byte)(unsafe.Pointer(&one)) != 1 {
		return nil, fmt.Errorf("vsock device: big-endian machines: %w", errors.ErrUnsupported)
	}
	d := &Device{
		cfg: cfg, log: cfg.Logger, streams: map[key]*stream{}, all: map[*stream]struct{}{},
		control:  list{kind: kindControl},
		data:     list{kind: kindData},
		greets:   list{kind: kindTimer, wait: cfg.HandshakeTimeout},
		requests: list{kind: kindTimer, wait: cfg.RequestTimeout},
		lingers:  list{kind: kindTimer, wait: cfg.LingerTimeout},
		starved:  list{kind: kindTimer, wait: starvedTimeout},
		segs:     make([][]byte, 0, 256),
		iov:      make([]unix.Iovec, 0, maxIovecs),
		chains:   make([]virtq.Chain, 0, rxChains),
	}
	return d, nil
}

// Run serves the VM until it ends, which is no error, or ctx does: then the
// guest is told that its streams are gone, and the error is the cause of ctx.
// It is for calling once.
func (d *Device) Run(ctx context.Context) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("vsock device of CID %d: %w", d.cfg.CID, err)
		}
	}()
	if d.poll, err = newPoller(); err != nil {
		return err
	}
	defer d.poll.close()
	stop, err := d.watchContext(ctx)
	if err != nil {
		return err
	}
	defer stop()
	if d.table, d.lost, err = openTable(ctx, d.cfg.StatePath, d.cfg.CID, d.cfg.MaxStreams+maxResets); err != nil {
		return err
	}
	ended := false
	defer func() {
		if ended {
			d.table.remove()
		} else {
			d.table.close()
		}
	}()
	if d.arena, err = newArena(d.cfg.MaxBuffered/pageSize + 2*d.cfg.MaxStreams); err != nil {
		return err
	}
	defer d.arena.close()
	l, err := unixsock.Listen(ctx, d.cfg.HostSocket)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	if err := d.listen(l); err != nil {
		return err
	}
	d.resident = newResident()
	defer d.resident.close()

	d.now = time.Now()
	d.stats.CID, d.stats.Since = d.cfg.CID, d.now
	d.giveUpAt = d.now.Add(d.cfg.ConnectTimeout)
	d.retryAt, d.retry = d.now, wait.Backoff{First: firstRetry, Most: lastRetry}
	defer d.shutDown()
	ended, err = d.serve(ctx)
	return err
}

// watchContext makes the end of ctx an event.
func (d *Device) watchContext(ctx context.Context) (stop func(), err error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("eventfd", err)
	}
	if _, err := d.poll.add(fd, unix.EPOLLIN, sourceFunc(func(uint32) {})); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	ended := wait.Interrupt(ctx, func() { notify(fd) })
	return func() {
		ended()
		_ = unix.Close(fd)
	}, nil
}

// listen has the poller watch the listener's descriptor, which stays l's.
func (d *Device) listen(l *unixsock.Listener) error {
	rc, err := l.SyscallConn()
	if err != nil {
		return err
	}
	var perr error
	err = rc.Control(func(fd uintptr) {
		d.listenFD = int(fd)
		_, perr = d.poll.add(int(fd), unix.EPOLLIN, sourceFunc(func(uint32) { d.accept() }))
	})
	return errors.Join(err, perr)
}

// serve goes round until the VM or ctx has ended.
func (d *Device) serve(ctx context.Context) (ended bool, err error) {
	for {
		if ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		if d.qemu == nil {
			if over, err := d.reconnect(); over {
				return err == nil, err
			}
		}
		if err := d.poll.wait(d.idle()); err != nil {
			return false, err
		}
		d.now = time.Now()
		d.stats.Rounds++
		d.work()
		d.timers()
	}
}

// work does what the rings and streams are ready for.
func (d *Device) work() {
	if d.up && d.txReady {
		d.txReady = d.fromGuest()
	}
	if d.up {
		d.toGuest()
	}
	for i := range d.rings {
		d.signal(i)
	}
}

// idle returns how long there is nothing to do: 0 if there is something, and
// negative for as long as nothing happens.
func (d *Device) idle() time.Duration {
	if d.up && (d.txReady && len(d.resets) < maxResets || d.wantsRx() && !d.rxDry) {
		return 0
	}
	var next time.Time
	sooner := func(t time.Time) {
		if !t.IsZero() && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	for _, l := range []*list{&d.greets, &d.requests, &d.lingers, &d.starved} {
		if l.head != nil {
			sooner(l.head.due)
		}
	}
	sooner(d.acceptAt)
	sooner(d.floor.until)
	if d.qemu == nil {
		sooner(d.retryAt)
	}
	if next.IsZero() {
		return -1
	}
	return max(0, next.Sub(d.now))
}

// timers does what is due.
func (d *Device) timers() {
	due := func(l *list) *stream {
		if l.head == nil || l.head.due.After(d.now) {
			return nil
		}
		return l.pop()
	}
	for s := due(&d.greets); s != nil; s = due(&d.greets) {
		d.log.Debug("connection closed: it did not say what it wants")
		s.free()
	}
	for s := due(&d.requests); s != nil; s = due(&d.requests) {
		d.log.Debug("the guest did not answer a request to connect", "port", s.key.guest)
		d.stats.Refused++
		s.reset("not answered")
	}
	for s := due(&d.lingers); s != nil; s = due(&d.lingers) {
		s.reset("closed, not confirmed")
	}
	for s := due(&d.starved); s != nil; s = due(&d.starved) {
		if s.state == open && s.send.room() == 0 {
			s.asked = true
			s.control(wantCreditRequest)
		}
	}
	d.tellRoom(d.floor.over(d.now))
	if !d.acceptAt.IsZero() && !d.acceptAt.After(d.now) {
		d.acceptAt = time.Time{}
		d.accept()
	}
}

// reconnect tries to reach QEMU if it is time to. over means that there is no
// more point: with the VM ended if err is nil.
func (d *Device) reconnect() (over bool, err error) {
	d.now = time.Now()
	if d.now.Before(d.retryAt) {
		return false, nil
	}
	err = d.connect()
	switch {
	case err == nil:
		return false, nil
	case !errors.Is(err, syscall.ENOENT) && !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, syscall.EAGAIN):
		return true, fmt.Errorf("reach QEMU at %s: %w", d.cfg.QEMUSocket, err)
	case d.now.After(d.giveUpAt) && !d.metAt.IsZero():
		d.log.Info("QEMU is gone, and the device with it")
		return true, nil
	case d.now.After(d.giveUpAt):
		return true, fmt.Errorf("reach QEMU at %s: %w; tried for %v", d.cfg.QEMUSocket, err, d.cfg.ConnectTimeout)
	}
	if !d.metAt.IsZero() && !errors.Is(err, syscall.EAGAIN) {
		// Nobody listens: QEMU is gone, its guest's streams with it.
		d.guestGone("the VM ended")
	}
	d.retryAt = d.now.Add(d.retry.Next())
	return false, nil
}

// shutDown tells the guest, if it is there to listen, and closes everything.
func (d *Device) shutDown() {
	for s := range d.all {
		switch s.state {
		case asked, open, closing:
			s.reset("the device stops")
		}
	}
	if d.up {
		d.toGuest()
		d.signal(ringRx)
	}
	for s := range d.all {
		if s.state == draining {
			s.flush()
		}
		s.free()
	}
	d.disconnect()
}

// status describes the device as it is.
func (d *Device) status() Status {
	st := d.stats
	st.QEMU, st.Running = d.qemu != nil, d.up
	st.Streams, st.Buffered = d.count, d.buffered
	return st
}
