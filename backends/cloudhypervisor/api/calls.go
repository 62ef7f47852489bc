package api

import (
	"context"
	"errors"
	"fmt"
	"os"
)

// A State is what a VMM says that its VM is doing.
type State string

// The states. A VM that was shut down, by its guest or by vm.shutdown, is Created again.
const (
	StateCreated    State = "Created"
	StateRunning    State = "Running"
	StateShutdown   State = "Shutdown"
	StatePaused     State = "Paused"
	StateBreakPoint State = "BreakPoint"
)

// Info is what vm.info answers.
type Info struct {
	Config VMConfig `json:"config"`
	State  State    `json:"state"`
	// MemoryActualSize is the guest's memory in bytes: Memory.Size, less what the balloon
	// holds, plus what it has plugged of the hot-plug area.
	MemoryActualSize int64 `json:"memory_actual_size"`
}

// Pong is what vmm.ping answers.
type Pong struct {
	BuildVersion string   `json:"build_version"` // as in "v53.0"
	Version      string   `json:"version"`       // as in "53.0.0"
	PID          int      `json:"pid"`           // in the VMM's own namespace
	Features     []string `json:"features"`
}

// A Resize changes what is not nil.
type Resize struct {
	VCPUs *int `json:"desired_vcpus,omitempty"`
	// RAM is Memory.Size and what is to be plugged of the hot-plug area, in bytes.
	RAM *int64 `json:"desired_ram,omitempty"`
	// Balloon is what the balloon is to hold, in bytes.
	Balloon *int64 `json:"desired_balloon,omitempty"`
}

// A Restore is how a snapshot is to be restored.
type Restore struct {
	Memory MemoryRestoreMode `json:"memory_restore_mode,omitempty"`
	Resume bool              `json:"resume,omitempty"`
	// Nets are the devices that had a tap by descriptor when the snapshot was taken, in
	// the order of the files that go along.
	Nets []RestoredNet `json:"net_fds,omitempty"`
}

// A RestoredNet is a network device that gets new descriptors.
type RestoredNet struct {
	ID    string `json:"id"`
	Files int    `json:"num_fds"`
}

// A MemoryRestoreMode is when the guest's memory is read from a snapshot.
type MemoryRestoreMode string

// The modes: all of it before the call returns, or each page when the guest wants it, for
// which the VMM needs userfaultfd and the snapshot stays as it is for as long as the VM lives.
const (
	RestoreCopy     MemoryRestoreMode = "Copy"
	RestoreOnDemand MemoryRestoreMode = "OnDemand"
)

// What else calls send.
type (
	diskSize struct {
		ID   string `json:"id"`
		Size int64  `json:"desired_size"`
	}
	snapshotTo struct {
		URL string `json:"destination_url"`
	}
	restoreFrom struct {
		URL string `json:"source_url"`
		Restore
	}
)

// Ping asks the VMM who it is.
func (c *Client) Ping(ctx context.Context) (*Pong, error) {
	p := new(Pong)
	if err := c.get(ctx, "vmm.ping", p); err != nil {
		return nil, err
	}
	return p, nil
}

// Info asks how the VM is. Where the VMM has no VM the error is an ErrNoVM.
func (c *Client) Info(ctx context.Context) (*Info, error) {
	i := new(Info)
	if err := c.get(ctx, "vm.info", i); err != nil {
		var refused *Error
		// From v53.0 on this call, which is always there, has no other reason for a 404.
		if errors.As(err, &refused) && refused.Status == notFound {
			return nil, fmt.Errorf("%w: %w", ErrNoVM, err)
		}
		return nil, err
	}
	return i, nil
}

// Create makes the VM of a VMM that has none. It does not boot it. One that fails may leave
// a VM behind: see [Client.Delete].
func (c *Client) Create(ctx context.Context, config *VMConfig) error {
	return c.put(ctx, "vm.create", config)
}

// AddNet gives a VM that is not booted yet, or one that is, a network device whose queue
// pairs are the files.
func (c *Client) AddNet(ctx context.Context, n Net, files ...*os.File) error {
	return c.put(ctx, "vm.add-net", n, files...)
}

// Boot lets a VM that was made, or that was shut down, run from its start.
func (c *Client) Boot(ctx context.Context) error { return c.put(ctx, "vm.boot", nil) }

// Pause stops the virtual CPUs. Of a VM that is paused it is refused.
func (c *Client) Pause(ctx context.Context) error { return c.put(ctx, "vm.pause", nil) }

// Resume lets them go on. Of a VM that runs it is refused.
func (c *Client) Resume(ctx context.Context) error { return c.put(ctx, "vm.resume", nil) }

// Reboot resets the VM: the guest begins again.
func (c *Client) Reboot(ctx context.Context) error { return c.put(ctx, "vm.reboot", nil) }

// NMI sends the guest a non-maskable interrupt.
func (c *Client) NMI(ctx context.Context) error { return c.put(ctx, "vm.nmi", nil) }

// PowerButton asks the guest to power off.
func (c *Client) PowerButton(ctx context.Context) error { return c.put(ctx, "vm.power-button", nil) }

// ShutdownVM ends the guest at once. The VMM keeps the VM, which can be booted again.
func (c *Client) ShutdownVM(ctx context.Context) error { return c.put(ctx, "vm.shutdown", nil) }

// Delete ends the guest, if it runs, and forgets the VM. Where there is none it does nothing.
func (c *Client) Delete(ctx context.Context) error { return c.put(ctx, "vm.delete", nil) }

// ShutdownVMM ends the VMM. It returns when the VMM has taken the order.
func (c *Client) ShutdownVMM(ctx context.Context) error { return c.put(ctx, "vmm.shutdown", nil) }

// Resize sets targets. It returns when the VMM has taken them; the guest follows later. Of a
// VM that is not booted it changes the configuration, whatever it says.
func (c *Client) Resize(ctx context.Context, r Resize) error { return c.put(ctx, "vm.resize", r) }

// ResizeDisk sets the size in bytes of the disk with that ID, image and device.
func (c *Client) ResizeDisk(ctx context.Context, id string, size int64) error {
	return c.put(ctx, "vm.resize-disk", diskSize{id, size})
}

// Snapshot writes the paused VM, without its disks, into the directory dir, which is there
// already. Only when it returns is it whole.
func (c *Client) Snapshot(ctx context.Context, dir string) error {
	return c.put(ctx, "vm.snapshot", snapshotTo{fileURL(dir)})
}

// Restore makes the VM of a VMM that has none out of the snapshot in dir: paused, unless
// r.Resume. The files are the new taps of r.Nets, in their order.
func (c *Client) Restore(ctx context.Context, dir string, r Restore, files ...*os.File) error {
	n := 0
	for _, net := range r.Nets {
		n += net.Files
	}
	if n != len(files) {
		return fmt.Errorf("vm.restore: %d files for network devices that take %d", len(files), n)
	}
	return c.put(ctx, "vm.restore", restoreFrom{fileURL(dir), r}, files...)
}

// fileURL is how Cloud Hypervisor wants a directory: what follows the scheme is the path as
// it is, with nothing escaped.
func fileURL(dir string) string { return "file://" + dir }
