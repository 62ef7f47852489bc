//go:build !linux

package qemu

import "errors"

func takeCID(int64) error { return errors.ErrUnsupported }
