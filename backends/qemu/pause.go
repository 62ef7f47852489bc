package qemu

import (
	"context"
	"time"
)

// pause waits for as long as d, or returns the context's error when that ends before.
// It is for where nothing tells when to look again.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
