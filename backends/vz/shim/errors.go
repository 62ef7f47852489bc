package shim

import "errors"

// ErrRefused is a guest that has no listener on a vsock port.
var ErrRefused = errors.New("the guest refuses the connection")
