//go:build !linux

package hostnet

import (
	"context"
	"fmt"
	"os"

	"vmfs/backends/hypervisor"
)

// OpenTap is for Linux.
func OpenTap(_ context.Context, name string) (*os.File, error) {
	return nil, fmt.Errorf("tap %s: there are taps on Linux only: %w", name, hypervisor.ErrNotSupported)
}

// BridgeTap is for Linux.
func BridgeTap(_ context.Context, bridge, _ string) (*os.File, error) {
	return nil, fmt.Errorf("bridge %s: there are taps on Linux only: %w", bridge, hypervisor.ErrNotSupported)
}
