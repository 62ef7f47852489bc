package vhostuser

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"vmfs/vsock/vhostuser/internal/vumsg"
)

// The virtio features of the device, by bit.
const (
	featIndirect = 1 << 28
	featEventIdx = 1 << 29
	featVersion1 = 1 << 32

	offered = featIndirect | featEventIdx | featVersion1 | vumsg.FeatureProtocol
	// QEMU needs CONFIG, with which it asks for the CID. Memory slots that are
	// set one by one are not offered: QEMU 7.2 does not get them right.
	offeredProtocol = vumsg.ProtocolMQ | vumsg.ProtocolReplyAck | vumsg.ProtocolConfig
)

// connect tries to reach QEMU. Its socket's backlog takes the connection as
// long as QEMU lives.
func (d *Device) connect() error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: d.cfg.QEMUSocket}); err != nil {
		_ = unix.Close(fd)
		return os.NewSyscallError("connect", err)
	}
	h, err := d.poll.add(fd, unix.EPOLLIN|unix.EPOLLRDHUP, sourceFunc(func(uint32) { d.messages() }))
	if err != nil {
		_ = unix.Close(fd)
		return err
	}
	d.qemu, d.qemuHandle, d.metAt = vumsg.NewConn(fd), h, d.now
	for i := range d.rings {
		d.rings[i] = ring{kickFD: -1, callFD: -1, errFD: -1, pos: d.rings[i].pos}
	}
	d.log.Info("connected to QEMU", "socket", d.cfg.QEMUSocket)
	return nil
}

// disconnect gives up everything that belongs to the connection.
func (d *Device) disconnect() {
	if d.qemu == nil {
		return
	}
	d.stopRings()
	for i := range d.rings {
		r := &d.rings[i]
		d.poll.remove(r.kickFD, &r.kick)
		closeFD(&r.kickFD)
		closeFD(&r.callFD)
		closeFD(&r.errFD)
	}
	d.poll.remove(d.qemu.FD(), &d.qemuHandle)
	d.qemu.Close()
	d.qemu = nil
	d.mem.unmap()
	d.mem = nil
	d.features = 0
}

// messages handles what QEMU has sent.
func (d *Device) messages() {
	for d.qemu != nil {
		m, err := d.qemu.Recv()
		if errors.Is(err, vumsg.ErrAgain) {
			return
		}
		if err == nil {
			err = d.message(&m)
			m.CloseFDs()
		}
		if err == nil {
			continue
		}
		if errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) {
			d.log.Info("QEMU has hung up")
		} else {
			d.log.Error("connection to QEMU closed", "err", err)
		}
		d.disconnect()
		d.lostQEMU()
	}
}

// message handles one request and answers it, if it is to be answered. An
// error ends the connection.
func (d *Device) message(m *vumsg.Msg) error {
	reply, err := d.handle(m)
	if err != nil {
		d.log.Error("QEMU's request failed", "err", err)
		if m.Type.Replies() {
			return err // QEMU waits for an answer that we do not have
		}
	}
	d.log.Debug("request", "type", m.Type.String(), "fds", len(m.FDs))
	if !m.Type.Replies() {
		// QEMU waits whenever the flag says so, whatever was negotiated.
		if !m.NeedReply {
			return nil
		}
		code := uint64(0)
		if err != nil {
			code = 1
		}
		reply = binary.LittleEndian.AppendUint64(nil, code)
	}
	return d.qemu.Reply(m.Type, reply)
}

func (d *Device) handle(m *vumsg.Msg) (reply []byte, err error) {
	u64 := func(v uint64) []byte { return binary.LittleEndian.AppendUint64(nil, v) }
	switch m.Type {
	case vumsg.GetFeatures:
		return u64(offered), nil
	case vumsg.GetProtocolFeatures:
		return u64(offeredProtocol), nil
	case vumsg.GetQueueNum:
		return u64(nRings), nil
	case vumsg.SetProtocolFeatures, vumsg.SetFeatures:
		return nil, d.setFeatures(m)
	case vumsg.SetOwner:
		return nil, nil
	case vumsg.ResetOwner, vumsg.ResetDevice:
		d.stopRings()
		for i := range d.rings {
			d.rings[i].enabled = false
		}
		return nil, nil
	case vumsg.GetConfig:
		return d.getConfig(m)
	case vumsg.SetConfig:
		return nil, errors.New("SET_CONFIG: the device's configuration cannot be changed")
	case vumsg.SetMemTable:
		return nil, d.setMemory(m)
	case vumsg.GetVringBase:
		return d.getBase(m)
	case vumsg.SetVringNum, vumsg.SetVringBase, vumsg.SetVringEnable:
		return nil, d.setRing(m)
	case vumsg.SetVringAddr:
		a, err := m.VringAddr()
		if err != nil {
			return nil, err
		}
		r, err := d.ring(m.Type, a.Ring)
		if err != nil {
			return nil, err
		}
		r.addr, r.hasAddr = a, true
		return nil, d.startRings()
	case vumsg.SetVringKick, vumsg.SetVringCall, vumsg.SetVringErr:
		return nil, d.setFD(m)
	}
	return nil, fmt.Errorf("%s: not a request this device knows", m.Type)
}

func (d *Device) setFeatures(m *vumsg.Msg) error {
	v, err := m.U64()
	if err != nil {
		return err
	}
	if m.Type == vumsg.SetProtocolFeatures {
		if v&^uint64(offeredProtocol) != 0 {
			return fmt.Errorf("%s: %#x was not offered", m.Type, v&^uint64(offeredProtocol))
		}
		return nil
	}
	if v&^uint64(offered) != 0 {
		return fmt.Errorf("%s: %#x was not offered", m.Type, v&^uint64(offered))
	}
	d.features = v
	return nil
}

// getConfig answers with a piece of the configuration, which is the CID.
func (d *Device) getConfig(m *vumsg.Msg) ([]byte, error) {
	off, size, data, err := m.Config()
	if err != nil {
		return nil, err
	}
	var space [8]byte
	binary.LittleEndian.PutUint64(space[:], uint64(d.cfg.CID))
	clear(data)
	if off < uint32(len(space)) {
		copy(data, space[off:])
	}
	return m.Payload[:12+size], nil
}

// setMemory maps the guest's memory; of a running guest too, to which some was
// added.
func (d *Device) setMemory(m *vumsg.Msg) error {
	regions, err := m.Regions()
	if err != nil {
		return err
	}
	mem, err := mapGuest(regions, m.FDs)
	if err != nil {
		return fmt.Errorf("%s: %w", m.Type, err)
	}
	old := d.mem
	d.mem = mem
	defer old.unmap()
	if !d.up {
		return d.startRings()
	}
	for i := range d.rings {
		if err := d.rings[i].q.Move(mem.Memory); err != nil {
			d.fault(i, err)
			return fmt.Errorf("%s: %w", m.Type, err)
		}
	}
	d.log.Debug("memory changed under way", "regions", len(regions))
	return nil
}

func (d *Device) ring(t vumsg.Type, i uint32) (*ring, error) {
	if i >= nRings {
		return nil, fmt.Errorf("%s: there is no ring %d", t, i)
	}
	return &d.rings[i], nil
}

// getBase stops a ring, and answers with the position of its next chain.
func (d *Device) getBase(m *vumsg.Msg) ([]byte, error) {
	i, _, err := m.State()
	if err != nil {
		return nil, err
	}
	r, err := d.ring(m.Type, i)
	if err != nil {
		return nil, err
	}
	d.stopRings()
	d.faulty = false // what comes next is a driver anew
	d.poll.remove(r.kickFD, &r.kick)
	closeFD(&r.kickFD)
	pos := r.pos
	if !d.known {
		pos = r.base
	}
	reply := binary.LittleEndian.AppendUint32(nil, i)
	return binary.LittleEndian.AppendUint32(reply, uint32(pos)), nil
}

func (d *Device) setRing(m *vumsg.Msg) error {
	i, v, err := m.State()
	if err != nil {
		return err
	}
	r, err := d.ring(m.Type, i)
	if err != nil {
		return err
	}
	switch m.Type {
	case vumsg.SetVringNum:
		r.num = v
	case vumsg.SetVringBase:
		r.base = uint16(v)
	default:
		r.enabled = v != 0
		if !r.enabled {
			d.stopRings()
		}
	}
	return d.startRings()
}

// setFD takes over an eventfd.
func (d *Device) setFD(m *vumsg.Msg) error {
	i, fd, err := m.VringFD()
	if err != nil {
		return err
	}
	r, err := d.ring(m.Type, i)
	if err != nil {
		closeFD(&fd)
		return err
	}
	switch m.Type {
	case vumsg.SetVringCall:
		closeFD(&r.callFD)
		r.callFD = fd
		if err := setNonblock(m.Type, fd); err != nil || fd < 0 || !d.up {
			return err
		}
		notify(fd) // in case the old one was signalled and nobody looked
		return nil
	case vumsg.SetVringErr:
		closeFD(&r.errFD)
		r.errFD = fd
		return setNonblock(m.Type, fd)
	}
	d.stopRings()
	d.poll.remove(r.kickFD, &r.kick)
	closeFD(&r.kickFD)
	r.kickFD = fd
	if fd < 0 {
		return fmt.Errorf("%s: polling of rings without kicks is not supported", m.Type)
	}
	// The counter is never read: each kick is an edge, and it would take
	// centuries to run full.
	wake := func(uint32) { d.rxDry = false }
	if i == ringTx {
		wake = func(uint32) { d.txReady = true }
	}
	if r.kick, err = d.poll.add(fd, unix.EPOLLIN, sourceFunc(wake)); err != nil {
		return fmt.Errorf("%s: %w", m.Type, err)
	}
	return d.startRings()
}

func setNonblock(t vumsg.Type, fd int) error {
	if fd < 0 {
		return nil
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return fmt.Errorf("%s: %w", t, os.NewSyscallError("fcntl", err))
	}
	return nil
}

// lostQEMU is called when the connection has ended: QEMU has, or it will take
// a new one at once.
func (d *Device) lostQEMU() {
	d.faulty = false
	d.giveUpAt = d.now.Add(d.cfg.ReconnectTimeout)
	d.retryAt = d.now
	d.retry.Reset()
	if d.now.Sub(d.metAt) < lastRetry {
		d.retryAt = d.now.Add(lastRetry) // it does not want us
	}
}
