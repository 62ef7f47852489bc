//go:build !linux

package qemu

import (
	"context"

	"vmfs/backends/hypervisor"
)

func awaitImages(context.Context, []hypervisor.DiskConfig) error { return nil }
