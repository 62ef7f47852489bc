//go:build !linux

package disk

import (
	"errors"
	"os"
)

func nextData(_ *os.File, off int64) (int64, error) { return off, nil }

func cloneFile(_, _ *os.File) error { return errors.ErrUnsupported }
