package agent

import (
	"encoding/binary"
	"strconv"
	"strings"
)

// From the kernel's input-event-codes.h.
const (
	evKey    = 1
	keyPower = 116
)

// inputEventSize is the size of struct input_event on 64-bit systems: two words
// of time, then type, code and value.
const inputEventSize = 24

// isKeyPress reports whether an input event is the key going down.
func isKeyPress(ev []byte, order binary.ByteOrder, key uint16) bool {
	return order.Uint16(ev[16:]) == evKey && order.Uint16(ev[18:]) == key && order.Uint32(ev[20:]) == 1
}

// hasKey reports whether a bitmap of sysfs, 64-bit words in hexadecimal with the
// highest first, has the key's bit.
func hasKey(bitmap string, key int) bool {
	words := strings.Fields(bitmap)
	i := len(words) - 1 - key/64
	if i < 0 {
		return false
	}
	w, err := strconv.ParseUint(words[i], 16, 64)
	return err == nil && w>>(key%64)&1 != 0
}
