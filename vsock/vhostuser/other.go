//go:build !linux

package vhostuser

import (
	"context"
	"errors"
	"fmt"
	"runtime"
)

// ErrRunning says that another process is the device of this VM.
var ErrRunning = errors.New("another device process serves this VM")

// Holder returns 0: there is no device.
func Holder(context.Context, string) (int, error) { return 0, nil }

// Device is the vsock device of one VM. It works on Linux only.
type Device struct{}

// New returns an error: the device needs Linux's memfd, eventfd and epoll.
func New(cfg Config) (*Device, error) {
	if _, err := cfg.withDefaults(); err != nil {
		return nil, fmt.Errorf("vsock device: %w", err)
	}
	return nil, fmt.Errorf("vsock device: it runs on Linux, this is %s: %w", runtime.GOOS, errors.ErrUnsupported)
}

// Run returns an error.
func (*Device) Run(context.Context) error {
	return fmt.Errorf("vsock device: %w", errors.ErrUnsupported)
}

// Main returns an error.
func Main(_ context.Context, cfg Config) error {
	_, err := New(cfg)
	return err
}
