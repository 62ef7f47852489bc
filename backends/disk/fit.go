package disk

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"vmfs/backends/hypervisor"
	"vmfs/internal/durable"
)

// Fit gives disks the sizes that their configuration says, before a VM starts: an
// image that is missing is made, empty and without using room; one that is smaller
// grows. A larger one is an ErrInvalid, and stays as it is. It is made as a whole or not
// at all. Disks without a size are not looked at.
func Fit(ctx context.Context, disks []hypervisor.DiskConfig) error {
	for _, d := range disks {
		if d.Size == 0 {
			continue
		}
		larger, err := grows(d, d.Size)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			err = wrap(d, create(ctx, d))
		case err == nil && larger:
			err = wrap(d, grow(ctx, d))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func wrap(d hypervisor.DiskConfig, err error) error {
	if err != nil {
		return fmt.Errorf("disk %s: %w", d.Path, err)
	}
	return nil
}

// Grow lets a VMM that runs make one of its disks larger: by resize, which is called if
// the image is smaller than it is to be. It returns the disks with the size.
func Grow(disks []hypervisor.DiskConfig, index int, bytes int64, resize func() error) ([]hypervisor.DiskConfig, error) {
	if index < 0 || index >= len(disks) {
		return nil, fmt.Errorf("there is no disk %d: %w", index, hypervisor.ErrInvalid)
	}
	disks = slices.Clone(disks)
	disks[index].Size = bytes
	if err := disks[index].Check(); err != nil {
		return nil, wrap(disks[index], err)
	}
	larger, err := grows(disks[index], bytes)
	if err == nil && larger {
		err = wrap(disks[index], resize())
	}
	return disks, err
}

// grows tells whether the image of a disk has to grow to have that many bytes. Where
// it would have to shrink, or cannot grow, the error is an ErrInvalid.
func grows(d hypervisor.DiskConfig, bytes int64) (bool, error) {
	now, err := Size(d.Path, d.Format)
	if err != nil {
		return false, wrap(d, err)
	}
	fi, err := os.Stat(d.Path)
	switch {
	case err != nil:
		return false, wrap(d, err)
	case now == bytes:
		return false, nil
	case d.Readonly:
		err = fmt.Errorf("it is readonly, has %d bytes, and cannot have %d: %w", now, bytes, hypervisor.ErrInvalid)
	case now > bytes:
		err = fmt.Errorf("it has %d bytes, and size says %d: an image never shrinks, so write size:%d or leave size out: %w", now, bytes, now, hypervisor.ErrInvalid)
	case isBlockDevice(fi.Mode()):
		err = fmt.Errorf("it is a block device of %d bytes, which nothing here can make %d: leave size out: %w", now, bytes, hypervisor.ErrInvalid)
	}
	return err == nil, wrap(d, err)
}

// create makes an image under a name aside, and then gives it its own.
func create(ctx context.Context, d hypervisor.DiskConfig) (err error) {
	if _, err := os.Lstat(d.Path); err == nil {
		return fmt.Errorf("it is a link to what is not there: %w", fs.ErrNotExist)
	}
	p, err := placeOf(d.Path)
	if err != nil {
		return err
	}
	defer p.close()
	aside := p.beside("new", 0)
	f, err := p.create(aside)
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, f.Close(), p.remove(aside))
	}()
	if d.Format == hypervisor.DiskQCOW2 {
		err = qemuImg(ctx, f, "create", "-q", "-f", "qcow2", byFile(f), strconv.FormatInt(d.Size, 10))
	} else {
		err = f.Truncate(d.Size)
	}
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = p.is(aside, f)
	}
	if err == nil {
		err = p.dir.Link(aside, p.name) // which fails where somebody else has made it meanwhile
	}
	if err == nil {
		err = durable.SyncDir(p.dir.Name())
	}
	return err
}

// grow makes an image larger that nobody uses. What it has stays where it is: whenever
// this ends, the image is whole.
func grow(ctx context.Context, d hypervisor.DiskConfig) error {
	f, _, err := Open(d.Path, os.O_RDWR)
	if err != nil {
		return err
	}
	if d.Format == hypervisor.DiskQCOW2 {
		err = growQCOW2(ctx, d, f)
	} else if err = f.Truncate(d.Size); err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// growQCOW2 makes a qcow2 larger that is open. qemu-img opens what is below it, too, and
// follows no header to that either.
func growQCOW2(ctx context.Context, d hypervisor.DiskConfig, f *os.File) error {
	chain, err := ChainOf(d.Path, d.Format)
	if err != nil {
		return err
	}
	chain[0].Path = byFile(f)
	b, err := json.Marshal(chain.Options())
	if err != nil {
		return err
	}
	return qemuImg(ctx, f, "resize", "-q", "json:"+string(b), strconv.FormatInt(d.Size, 10))
}

// qemuImg runs qemu-img, which knows qcow2 as nobody else does.
func qemuImg(ctx context.Context, f *os.File, args ...string) error {
	path, err := exec.LookPath("qemu-img")
	if err != nil {
		return fmt.Errorf("a qcow2 image is made and grown by qemu-img, and it is not in PATH (Debian: apt-get install qemu-utils): %w", hypervisor.ErrNotSupported)
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.ExtraFiles = []*os.File{f}
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		said := strings.TrimSpace(string(out[:min(len(out), 1000)]))
		return fmt.Errorf("qemu-img %s: %w: %s", args[0], err, strings.TrimPrefix(said, "qemu-img: "))
	}
	return nil
}
