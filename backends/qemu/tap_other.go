//go:build !linux

package qemu

import (
	"fmt"
	"os"

	"vmfs/backends/hypervisor"
)

func openTap(name string) (*os.File, error) {
	return nil, fmt.Errorf("tap %s: taps are Linux's: %w", name, hypervisor.ErrNotSupported)
}
