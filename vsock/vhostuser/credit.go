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
	alloc uint32 // what the guest has been or will be told it may have under way
	got   uint32 // bytes that came
	freed uint32 // bytes that the host took
	told  uint32 // freed, as the guest was last told
	grown uint32 // got, when alloc was last changed
}

// take accounts for n more bytes from the guest, and reports whether it was
// allowed to send them.
func (c *recvCredit) take(n uint32) bool {
	if n > c.alloc-(c.got-c.freed) { // got-freed never exceeds alloc
		return false
	}
	c.got += n
	return true
}

// known returns the room the guest knows of.
func (c *recvCredit) known() uint32 { return c.alloc - (c.got - c.told) }

// due reports whether it is time to tell the guest of room it does not know
// of: when it has less than half left, and there is a piece worth a packet.
func (c *recvCredit) due() bool {
	fresh := c.freed - c.told
	return c.known() < c.alloc/2 && (fresh >= c.alloc/8 || fresh > 0 && c.got == c.freed)
}
