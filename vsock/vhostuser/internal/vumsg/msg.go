// Package vumsg reads and writes the messages of the vhost-user protocol, as
// far as a device with its own configuration space and split rings needs them.
// It is the device's side; it checks the form of what comes in, not whether it
// makes sense. It imports golang.org/x/sys alone.
package vumsg

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
)

// Type is the number of a request.
type Type uint32

// The requests a front end may send to such a device.
const (
	GetFeatures         Type = 1
	SetFeatures         Type = 2
	SetOwner            Type = 3
	ResetOwner          Type = 4
	SetMemTable         Type = 5
	SetVringNum         Type = 8
	SetVringAddr        Type = 9
	SetVringBase        Type = 10
	GetVringBase        Type = 11
	SetVringKick        Type = 12
	SetVringCall        Type = 13
	SetVringErr         Type = 14
	GetProtocolFeatures Type = 15
	SetProtocolFeatures Type = 16
	GetQueueNum         Type = 17
	SetVringEnable      Type = 18
	GetConfig           Type = 24
	SetConfig           Type = 25
	ResetDevice         Type = 34
)

var names = map[Type]string{
	GetFeatures: "GET_FEATURES", SetFeatures: "SET_FEATURES", SetOwner: "SET_OWNER", ResetOwner: "RESET_OWNER",
	SetMemTable: "SET_MEM_TABLE", SetVringNum: "SET_VRING_NUM", SetVringAddr: "SET_VRING_ADDR",
	SetVringBase: "SET_VRING_BASE", GetVringBase: "GET_VRING_BASE", SetVringKick: "SET_VRING_KICK",
	SetVringCall: "SET_VRING_CALL", SetVringErr: "SET_VRING_ERR", GetProtocolFeatures: "GET_PROTOCOL_FEATURES",
	SetProtocolFeatures: "SET_PROTOCOL_FEATURES", GetQueueNum: "GET_QUEUE_NUM", SetVringEnable: "SET_VRING_ENABLE",
	GetConfig: "GET_CONFIG", SetConfig: "SET_CONFIG", ResetDevice: "RESET_DEVICE",
}

func (t Type) String() string {
	if s, ok := names[t]; ok {
		return s
	}
	return "request " + strconv.FormatUint(uint64(t), 10)
}

// Replies reports whether the protocol has an answer to t of its own, apart
// from the acknowledgement of REPLY_ACK.
func (t Type) Replies() bool {
	switch t {
	case GetFeatures, GetProtocolFeatures, GetVringBase, GetQueueNum, GetConfig:
		return true
	}
	return false
}

// Protocol features, by bit.
const (
	ProtocolMQ       = 1 << 0
	ProtocolReplyAck = 1 << 3
	ProtocolConfig   = 1 << 9
)

// FeatureProtocol is the bit of the virtio features that stands for protocol
// features.
const FeatureProtocol = 1 << 30

const (
	headerSize = 12

	// MaxPayload is the longest payload taken. The longest that is needed,
	// a memory table, has 264 bytes.
	MaxPayload = 1024

	// MaxFDs is the most file descriptors of one message: one a region.
	MaxFDs = 8

	flagVersion   = 1
	flagVersions  = 3
	flagReply     = 4
	flagNeedReply = 8
)

// ErrForm is wrapped by the errors of messages that are not well formed.
var ErrForm = errors.New("malformed vhost-user message")

// Msg is a request from the front end.
type Msg struct {
	Type Type
	// NeedReply asks for an acknowledgement.
	NeedReply bool
	Payload   []byte
	// FDs belong to the receiver, who closes those it does not keep.
	FDs []int
}

func (m *Msg) errf(format string, args ...any) error {
	return fmt.Errorf("%s: %w: %s", m.Type, ErrForm, fmt.Sprintf(format, args...))
}

// parseHeader reads the fixed part of a message.
func parseHeader(b []byte) (m Msg, size int, err error) {
	m.Type = Type(binary.LittleEndian.Uint32(b))
	flags := binary.LittleEndian.Uint32(b[4:])
	n := binary.LittleEndian.Uint32(b[8:])
	m.NeedReply = flags&flagNeedReply != 0
	if flags&flagVersions != flagVersion || flags&flagReply != 0 {
		return m, 0, m.errf("flags %#x", flags)
	}
	if n > MaxPayload {
		return m, 0, m.errf("%d bytes", n)
	}
	return m, int(n), nil
}

// AppendReply appends the reply to a request of type t.
func AppendReply(b []byte, t Type, payload []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(t))
	b = binary.LittleEndian.AppendUint32(b, flagVersion|flagReply)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(payload)))
	return append(b, payload...)
}

// U64 is the payload that is one 64-bit number.
func (m *Msg) U64() (uint64, error) {
	if len(m.Payload) != 8 {
		return 0, m.errf("%d bytes instead of 8", len(m.Payload))
	}
	return binary.LittleEndian.Uint64(m.Payload), nil
}

// State is the payload of messages about one number of a ring.
func (m *Msg) State() (ring, num uint32, err error) {
	if len(m.Payload) != 8 {
		return 0, 0, m.errf("%d bytes instead of 8", len(m.Payload))
	}
	return binary.LittleEndian.Uint32(m.Payload), binary.LittleEndian.Uint32(m.Payload[4:]), nil
}

// VringAddr is the payload of SET_VRING_ADDR.
type VringAddr struct {
	Ring, Flags       uint32
	Desc, Used, Avail uint64
}

// VringAddr reads the payload of SET_VRING_ADDR.
func (m *Msg) VringAddr() (a VringAddr, err error) {
	if len(m.Payload) != 40 {
		return a, m.errf("%d bytes instead of 40", len(m.Payload))
	}
	p := m.Payload
	a.Ring, a.Flags = binary.LittleEndian.Uint32(p), binary.LittleEndian.Uint32(p[4:])
	a.Desc = binary.LittleEndian.Uint64(p[8:])
	a.Used = binary.LittleEndian.Uint64(p[16:])
	a.Avail = binary.LittleEndian.Uint64(p[24:])
	return a, nil
}

// VringFD is the payload of the messages that bring a ring an eventfd. FD is
// -1 where the front end has none to give. It takes FDs over.
func (m *Msg) VringFD() (ring uint32, fd int, err error) {
	v, err := m.U64()
	if err != nil {
		return 0, -1, err
	}
	const noFD = 1 << 8
	switch {
	case v&noFD != 0 && len(m.FDs) == 0:
		return uint32(v & 0xff), -1, nil
	case v&noFD == 0 && len(m.FDs) == 1:
		fd, m.FDs = m.FDs[0], nil
		return uint32(v & 0xff), fd, nil
	}
	return 0, -1, m.errf("value %#x with %d descriptors", v, len(m.FDs))
}

// Region is one entry of a memory table.
type Region struct {
	Guest, Size, User, Offset uint64
}

// Regions reads the payload of SET_MEM_TABLE; m.FDs has as many entries.
func (m *Msg) Regions() ([]Region, error) {
	if len(m.Payload) < 8 {
		return nil, m.errf("%d bytes", len(m.Payload))
	}
	n := binary.LittleEndian.Uint32(m.Payload)
	p := m.Payload[8:]
	// The table has room for eight, and some front ends send all of it.
	if n > MaxFDs || len(p) < int(n)*32 || len(p) > MaxFDs*32 {
		return nil, m.errf("%d regions in %d bytes", n, len(m.Payload))
	}
	if int(n) != len(m.FDs) {
		return nil, m.errf("%d regions and %d descriptors", n, len(m.FDs))
	}
	rs := make([]Region, n)
	for i := range rs {
		e := p[i*32:]
		rs[i] = Region{
			Guest: binary.LittleEndian.Uint64(e), Size: binary.LittleEndian.Uint64(e[8:]),
			User: binary.LittleEndian.Uint64(e[16:]), Offset: binary.LittleEndian.Uint64(e[24:]),
		}
	}
	return rs, nil
}

// Config reads the payload of GET_CONFIG and SET_CONFIG: a piece of the
// device's configuration space.
func (m *Msg) Config() (off, size uint32, data []byte, err error) {
	if len(m.Payload) < 12 {
		return 0, 0, nil, m.errf("%d bytes", len(m.Payload))
	}
	off = binary.LittleEndian.Uint32(m.Payload)
	size = binary.LittleEndian.Uint32(m.Payload[4:])
	data = m.Payload[12:]
	if int64(size) > int64(len(data)) {
		return 0, 0, nil, m.errf("%d bytes of configuration announced, %d sent", size, len(data))
	}
	return off, size, data[:size], nil
}
