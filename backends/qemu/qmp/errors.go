package qmp

import (
	"errors"
	"fmt"
)

// The errors that end a connection.
var (
	// ErrDisconnected means that QEMU closed the connection, most often because
	// it ended.
	ErrDisconnected = errors.New("qmp: QEMU closed the connection")
	// ErrClosed means that the connection was closed on this side.
	ErrClosed = errors.New("qmp: connection is closed")
	// ErrProtocol means that what came is not QMP.
	ErrProtocol = errors.New("qmp: not a QMP monitor")
)

// An Error is QEMU's refusal of a command.
type Error struct {
	Command string // the command that was refused
	Class   string // QEMU's error class, such as ClassGeneric
	Desc    string // QEMU's words
}

// The error classes of QEMU (qapi/error.json).
const (
	ClassGeneric         = "GenericError"
	ClassCommandNotFound = "CommandNotFound"
	ClassDeviceNotActive = "DeviceNotActive"
	ClassDeviceNotFound  = "DeviceNotFound"
)

// Error returns the command and QEMU's words.
func (e *Error) Error() string { return fmt.Sprintf("QEMU refuses %s: %s", e.Command, e.Desc) }
