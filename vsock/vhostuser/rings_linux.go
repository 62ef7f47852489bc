package vhostuser

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"vmfs/vsock/vhostuser/internal/virtq"
	"vmfs/vsock/vhostuser/internal/vumsg"
)

// ringNames are what the driver calls its rings.
var ringNames = [...]string{ringRx: "rx", ringTx: "tx"}

// The rings: the guest receives on rx and sends on tx.
const (
	ringRx = 0
	ringTx = 1
	nRings = 2
)

// ring is what QEMU has said about one of the rings.
type ring struct {
	num     uint32
	addr    vumsg.VringAddr
	hasAddr bool
	base    uint16 // where to go on, if we have no position of our own
	enabled bool

	kickFD, callFD, errFD int
	kick                  handle

	q   *virtq.Queue // while the rings run
	pos uint16       // where it was stopped
}

// stopRings stops the rings and remembers where they were.
func (d *Device) stopRings() {
	if !d.up {
		return
	}
	d.up = false
	d.known = true
	for i := range d.rings {
		r := &d.rings[i]
		d.signal(i)
		r.pos = r.q.Next()
		r.q = nil
	}
	d.log.Debug("rings stopped", "rx", d.rings[ringRx].pos, "tx", d.rings[ringTx].pos)
}

// startRings starts the rings if all that is needed has come.
func (d *Device) startRings() error {
	if d.up || d.faulty || d.mem == nil || d.qemu == nil || d.features&featVersion1 == 0 {
		return nil
	}
	for i := range d.rings {
		r := &d.rings[i]
		on := r.enabled || d.features&vumsg.FeatureProtocol == 0
		if !on || r.num == 0 || !r.hasAddr || r.kickFD < 0 {
			return nil
		}
	}
	var qs [nRings]*virtq.Queue
	for i := range d.rings {
		r := &d.rings[i]
		q, err := virtq.Start(d.mem.Memory, virtq.Layout{
			Num: r.num, Desc: r.addr.Desc, Avail: r.addr.Avail, Used: r.addr.Used,
			EventIdx: d.features&featEventIdx != 0, Indirect: d.features&featIndirect != 0,
		})
		if err != nil {
			d.stats.Fault = ringNames[i] + ": " + err.Error()
			return fmt.Errorf("start the %s ring: %w", ringNames[i], err)
		}
		qs[i] = q
	}
	for i := range qs {
		d.rings[i].q = qs[i]
	}
	d.started()
	return nil
}

// started is called when the rings begin to run: for a new driver, or for the
// one that was there before. QEMU does not say which. But a new driver's rings
// begin at 0, and ours are where we stopped them.
func (d *Device) started() {
	rx, tx := d.rings[ringRx].q.Next(), d.rings[ringTx].q.Next()
	anew := rx == 0 && tx == 0
	if d.known {
		anew = rx != d.rings[ringRx].pos || tx != d.rings[ringTx].pos
	}
	if anew {
		if d.known || len(d.lost) > 0 {
			d.stats.GuestResets++
		}
		n := d.guestGone("the guest's driver started anew")
		d.log.Info("rings started: a new driver in the guest", "streams_ended", n)
	} else {
		d.log.Info("rings started: they go on", "rx", rx, "tx", tx, "streams", d.count)
	}
	if len(d.lost) > 0 {
		d.log.Warn("resetting the streams of a device that died", "streams", len(d.lost))
		d.stats.LostStreams = len(d.lost)
		for slot, k := range d.lost {
			d.pushReset(resetPacket{key: k, typ: typeStream, slot: slot})
		}
		clear(d.lost)
	}
	d.up, d.driver, d.known = true, true, true
	d.stats.Fault = ""
	d.rxDry, d.txReady = false, true
	for i := range d.rings {
		// The last signal before a stop, or of a device that died, may not
		// have got through.
		if fd := d.rings[i].callFD; fd >= 0 {
			notify(fd)
		}
	}
}

// guestGone ends the streams of a driver that is not there any more, and
// returns their number.
func (d *Device) guestGone(why string) int {
	n := d.dropAll(why) + len(d.lost)
	for slot := range d.lost {
		d.table.clear(slot)
	}
	clear(d.lost)
	d.driver = false
	return n
}

// signal shows the guest what was done on a ring, and wakes it if it wants.
func (d *Device) signal(i int) {
	r := &d.rings[i]
	if r.q != nil && r.q.Publish() && r.callFD >= 0 {
		notify(r.callFD)
	}
}

// notify adds one to an eventfd. If its counter is full it wakes as well.
func notify(fd int) {
	one := [8]byte{1}
	if _, err := unix.Write(fd, one[:]); errors.Is(err, unix.EINTR) {
		_, _ = unix.Write(fd, one[:])
	}
}

// fault notes that the guest has broken a ring.
func (d *Device) fault(ring int, err error) {
	d.log.Error("the guest has broken a ring: its streams end", "ring", ringNames[ring], "err", err)
	d.stats.Fault = ringNames[ring] + ": " + err.Error()
	d.stopRings()
	d.faulty = true
	d.known = false
	d.driver = false
	d.dropAll("the guest broke a ring")
	if fd := d.rings[ring].errFD; fd >= 0 {
		notify(fd)
	}
}

// closeFD closes a descriptor kept in *fd, if there is one.
func closeFD(fd *int) {
	if *fd >= 0 {
		_ = unix.Close(*fd)
		*fd = -1
	}
}
