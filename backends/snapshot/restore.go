package snapshot

import (
	"context"
	"errors"
	"log/slog"

	"vmfs/backends/disk"
	"vmfs/backends/hypervisor"
)

// WithDisks gives the disks of config the content that the snapshot in dir has of
// them, and has start start the VM. When that fails the disks get back what they
// had; journal keeps what it takes to do so after a crash (see disk.Swap).
func (m *Manifest) WithDisks(ctx context.Context, log *slog.Logger, journal, dir string, config hypervisor.VMConfig, start func() error) error {
	if err := disk.TakeBack(journal); err != nil {
		return err
	}
	var images []string
	for _, d := range config.Disks {
		images = append(images, d.Path)
	}
	disks, err := disk.Put(ctx, journal, dir, images, m.Disks)
	if err != nil {
		return err
	}
	if err := start(); err != nil {
		return errors.Join(err, disks.TakeBack())
	}
	disks.Settle(log)
	return nil
}

// Settle is for a VM whose server was killed after all of it had been restored, and
// before it had put that down. The log names the VM.
func Settle(log *slog.Logger, journal string) {
	s, err := disk.Pending(journal)
	if err != nil {
		log.Warn("a restore cannot be settled", "err", err)
	}
	if s != nil {
		s.Settle(log)
	}
}
