package vhostuser

import "encoding/binary"

// headerSize is the length of a packet's header, virtio_vsock_hdr.
const headerSize = 44

// maxPayload is the most bytes one packet to the guest carries; Linux takes
// and sends no more.
const maxPayload = 64 << 10

// hostCID is what the host is to every guest.
const hostCID = 2

// typeStream is the one type of socket the device offers.
const typeStream = 1

type op uint16

const (
	opRequest       op = 1
	opResponse      op = 2
	opReset         op = 3
	opShutdown      op = 4
	opRW            op = 5
	opCreditUpdate  op = 6
	opCreditRequest op = 7
)

// The flags of opShutdown: the sender will not receive, or not send, any more.
const (
	shutReceive = 1
	shutSend    = 2
	shutBoth    = shutReceive | shutSend
)

// header is a packet's header.
type header struct {
	srcCID, dstCID   uint64
	srcPort, dstPort uint32
	len              uint32
	typ              uint16
	op               op
	flags            uint32
	bufAlloc, fwdCnt uint32
}

func (h *header) encode(b *[headerSize]byte) {
	binary.LittleEndian.PutUint64(b[0:], h.srcCID)
	binary.LittleEndian.PutUint64(b[8:], h.dstCID)
	binary.LittleEndian.PutUint32(b[16:], h.srcPort)
	binary.LittleEndian.PutUint32(b[20:], h.dstPort)
	binary.LittleEndian.PutUint32(b[24:], h.len)
	binary.LittleEndian.PutUint16(b[28:], h.typ)
	binary.LittleEndian.PutUint16(b[30:], uint16(h.op))
	binary.LittleEndian.PutUint32(b[32:], h.flags)
	binary.LittleEndian.PutUint32(b[36:], h.bufAlloc)
	binary.LittleEndian.PutUint32(b[40:], h.fwdCnt)
}

func (h *header) decode(b *[headerSize]byte) {
	h.srcCID = binary.LittleEndian.Uint64(b[0:])
	h.dstCID = binary.LittleEndian.Uint64(b[8:])
	h.srcPort = binary.LittleEndian.Uint32(b[16:])
	h.dstPort = binary.LittleEndian.Uint32(b[20:])
	h.len = binary.LittleEndian.Uint32(b[24:])
	h.typ = binary.LittleEndian.Uint16(b[28:])
	h.op = op(binary.LittleEndian.Uint16(b[30:]))
	h.flags = binary.LittleEndian.Uint32(b[32:])
	h.bufAlloc = binary.LittleEndian.Uint32(b[36:])
	h.fwdCnt = binary.LittleEndian.Uint32(b[40:])
}
