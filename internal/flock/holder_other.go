//go:build unix && !linux

package flock

import (
	"context"
	"errors"
)

// Holder is not known here.
func Holder(context.Context, string) (pid int, err error) { return 0, errors.ErrUnsupported }
