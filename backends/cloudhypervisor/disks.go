package cloudhypervisor

import (
	"context"
	"fmt"
	"math/bits"
	"strconv"

	"vmfs/backends/cloudhypervisor/api"
	"vmfs/backends/hypervisor"
)

// apiDisk is the i-th disk as the API has it. The serial is its place in the configuration,
// as with QEMU. The image is what it is declared to be and leads to no other file.
func apiDisk(i int, d hypervisor.DiskConfig) api.Disk {
	name := idDisk + strconv.Itoa(i)
	disk := api.Disk{ID: name, Path: d.Path, ReadOnly: d.Readonly, ImageType: api.ImageRaw, Serial: name, RateLimiter: limiter(d)}
	if d.Format == hypervisor.DiskQCOW2 {
		disk.ImageType = api.ImageQcow2
	}
	return disk
}

const (
	// leastBucket is the size of the smallest bucket. No request is larger with Linux as the
	// guest, which would be counted in part.
	leastBucket = int64(4) << 20
	// longestRefill is how many seconds a bucket may take to be full again.
	longestRefill = int64(1e9)
)

// limiter is the limits of a disk as a bucket of tokens, one for each byte, or nil. The bucket
// fills at the sustained rate, and holds what may come at once after a rest: a second of
// the burst rate. It is full at first, so that nothing is left for a one-time burst.
// docs/cloud-hypervisor.md derives it.
func limiter(d hypervisor.DiskConfig) *api.RateLimiter {
	if d.IOBps == 0 {
		return nil
	}
	size := max(d.IOBps, d.IOBurstBps, leastBucket)
	if size/d.IOBps >= longestRefill {
		size = d.IOBps * longestRefill
	}
	// In milliseconds, rounded up: the rate is never above what it may be.
	high, low := bits.Mul64(uint64(size), 1000)
	refill, rest := bits.Div64(high, low, uint64(d.IOBps))
	if rest > 0 {
		refill++
	}
	return &api.RateLimiter{Bandwidth: &api.TokenBucket{Size: size, RefillTime: int64(refill)}}
}

// GrowDisk makes a disk larger. See hypervisor.DiskGrower.
func (vm *VM) GrowDisk(ctx context.Context, index int, bytes int64) error {
	return vm.wrap("grow a disk of", vm.growDisk(ctx, index, bytes))
}

func (vm *VM) growDisk(ctx context.Context, index int, bytes int64) error {
	s, _, err := vm.status(ctx)
	if err != nil {
		return err
	}
	return vm.Grow(ctx, index, bytes, func() error {
		// Cloud Hypervisor shrinks a raw image when it is asked, and lets the device of a VM
		// that is paused go on: neither is to happen.
		if s.state != hypervisor.StateRunning {
			return fmt.Errorf("the VM is %s, and Cloud Hypervisor can do it while it runs: resume it first: %w", s.state, hypervisor.ErrBusy)
		}
		return vm.client.ResizeDisk(ctx, idDisk+strconv.Itoa(index), bytes)
	})
}
