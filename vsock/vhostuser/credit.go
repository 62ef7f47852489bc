package vhostuser

// The two directions' flow control. Counters run over: all arithmetic on them
// is modulo 2^32, and only differences mean anything.

// sendCredit says how much the guest can take.
type sendCredit struct {
	sent  uint32 // bytes given to the guest so far
	alloc uint32 // the guest's buffer, as it last said
	freed uint32 // bytes the guest has consumed, as it last said
}

// room returns how many bytes may be sent. A guest that claims to have
// consumed more than it was sent gets none.
func (c *sendCredit) room() uint32 {
	if under := c.sent - c.freed; under <= c.alloc {
		return c.alloc - under
	}
	return 0
}

// recvCredit says how much the guest may send.
type recvCredit struct {
	alloc uint32 // how many bytes may be under way or kept
	got   uint32 // bytes that came
	freed uint32 // bytes that the host took
	edge  uint32 // freed+alloc, as the guest was last told: it may send up to here
	grown uint32 // got, when alloc last grew
}

// take accounts for n more bytes from the guest, and reports whether it was
// allowed to send them.
func (c *recvCredit) take(n uint32) bool {
	if n > c.known() {
		return false
	}
	c.got += n
	return true
}

// known returns the room the guest knows of.
func (c *recvCredit) known() uint32 { return c.edge - c.got }

// tell returns what the guest is to be told, and notes that it was.
func (c *recvCredit) tell() (alloc, freed uint32) {
	c.edge = c.freed + c.alloc
	return c.alloc, c.freed
}

// shrink lowers the room towards alloc, and returns by how much. The guest may
// have used all it was told of, so the edge does not move back: only room that
// it does not know of yet is withheld.
func (c *recvCredit) shrink(alloc uint32) uint32 {
	less := min(c.alloc-alloc, c.freed+c.alloc-c.edge)
	c.alloc -= less
	return less
}

// due reports whether it is time to tell the guest of room it does not know
// of: when it has less than half left, and there is a piece worth a packet.
func (c *recvCredit) due() bool {
	fresh := c.freed + c.alloc - c.edge
	return c.known() < c.alloc/2 && (fresh >= c.alloc/8 || fresh > 0 && c.got == c.freed)
}
