package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"

	"vmfs/backends/disk"
	"vmfs/backends/hypervisor"
)

// disks makes a virtio disk of every DiskConfig. The image's format is the
// declared one, never a guess, and so are those of the images below it: they are told to
// QEMU as JSON, which quotes any path, and it follows no header to another file.
func (p *plan) disks(a *commandLine) error {
	for i, d := range p.config.Disks {
		n := strconv.Itoa(i)
		if err := checkDisk(d); err != nil {
			return err
		}
		chain, err := disk.ChainOf(d.Path, d.Format)
		if err != nil {
			return fmt.Errorf("disk %s: %w", d.Path, err)
		}
		node := chain.Options()
		node["node-name"], node["read-only"], node["discard"] = "disk"+n, d.Readonly, "unmap"
		if d.IOBps > 0 {
			limits := map[string]int64{"bps-total": d.IOBps}
			if d.IOBurstBps > d.IOBps {
				limits["bps-total-max"] = d.IOBurstBps
			}
			a.text("object", asJSON(map[string]any{"qom-type": "throttle-group", "id": "limit" + n, "limits": limits}))
			node["node-name"] = "image" + n
			node = map[string]any{
				"driver": "throttle", "node-name": "disk" + n, "read-only": d.Readonly, "discard": "unmap",
				"throttle-group": "limit" + n, "file": node,
			}
		}
		a.text("blockdev", asJSON(node))
		// A write that fails stops the VM, so that nothing is lost and it can go on
		// when there is room again; a read that fails is the guest's to deal with.
		dev := opt("virtio-blk-pci").set("id", "blk"+n).set("drive", "disk"+n).set("werror", "stop").set("rerror", "report")
		if p.config.KernelPath == "" {
			dev.num("bootindex", int64(i))
		}
		if p.layout != layoutByOrder {
			dev.set("serial", "disk"+n)
		}
		a.opt("device", p.placeOf(dev, slotDisks, i))
	}
	return nil
}

// checkDisk looks whether a disk can be used, for an error that says which.
func checkDisk(d hypervisor.DiskConfig) error {
	how := os.O_RDWR
	if d.Readonly {
		how = os.O_RDONLY
	}
	f, _, err := disk.Open(d.Path, how)
	switch {
	case errors.Is(err, hypervisor.ErrInvalid):
		return fmt.Errorf("disk %s: %w", d.Path, err)
	case errors.Is(err, fs.ErrPermission) && !d.Readonly:
		return fmt.Errorf("disk: %w (try readonly:yes)", err)
	case err != nil:
		return fmt.Errorf("disk: %w", err)
	}
	return f.Close()
}

// GrowDisk makes a disk larger. See hypervisor.DiskGrower.
func (vm *VM) GrowDisk(ctx context.Context, index int, bytes int64) error {
	err := vm.conn.Err()
	if err == nil {
		err = vm.Grow(ctx, index, bytes, func() error {
			args := map[string]any{"node-name": "disk" + strconv.Itoa(index), "size": bytes}
			return vm.conn.Execute(ctx, "block_resize", args, nil)
		})
	}
	return vm.wrap("grow a disk of", err)
}

// asJSON encodes what is made of strings, numbers and maps; their order is the
// alphabet's.
func asJSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // of nothing that can fail
	}
	return string(b)
}
