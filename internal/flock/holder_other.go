//go:build unix && !linux

package flock

import (
	"context"
	"errors"
)

// Holder is not known here: of flock(2) no other system tells. What is kept by it, beside a
// QEMU or a Cloud Hypervisor, is Linux's.
func Holder(context.Context, string) (pid int, err error) { return 0, errors.ErrUnsupported }
