package qemu

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"vmfs/backends/hypervisor"
	"vmfs/backends/qemu/qmp"
	"vmfs/backends/qemu/vsockdev"
	"vmfs/internal/wait"
	"vmfs/vsock"
)

// vsock makes what the vsock device needs: nothing but the device itself where
// the host's kernel has one, and the socket and slot for one that comes from
// another process. That is plugged in once it has connected (see plugVsock).
func (p *plan) vsock(a *commandLine) error {
	c := &p.config
	if c.VsockSocket == "" && c.VsockCID == 0 {
		return nil
	}
	if c.VsockSocket != "" && !p.incoming && filepath.Dir(c.VsockSocket) == p.dir.String() && p.host.exists(vhostVsock) {
		// Nobody has asked for this socket: it is where one would be. The record
		// keeps that there is none. A VM that is restored has the
		// kind of device that it had.
		c.VsockSocket = ""
	}
	if c.VsockSocket != "" {
		if !vsockdev.Supported {
			return fmt.Errorf("vsock: the socket %s needs a device in user space, which there is on Linux alone: %w", c.VsockSocket, hypervisor.ErrNotSupported)
		}
		a.opt("chardev", opt("socket").set("id", idVsockSock).num("fd", int64(p.file(fileVsock))).on("server", true).on("wait", false))
		p.vsockSlot(a)
		return nil
	}
	if !p.host.exists(vhostVsock) {
		return fmt.Errorf("vsock: this host has no %s (modprobe vhost_vsock): %w", vhostVsock, hypervisor.ErrNotSupported)
	}
	// The kernel has each CID once. QEMU would say so, too, in its log.
	if err := p.host.takeCID(c.VsockCID); errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("vsock: CID %d: %w; choose another, or vsock.cid=auto", c.VsockCID, hypervisor.ErrCIDInUse)
	}
	a.opt("device", p.place(opt("vhost-vsock-pci").set("id", idVsock).num("guest-cid", c.VsockCID), slotVsock))
	return nil
}

const vhostVsock = "/dev/vhost-vsock"

// vsockDialer is the VsockDialerFactory: a guest with a socket is reached by it, one
// without by the host's kernel.
func vsockDialer(socket string, cid int64) hypervisor.VsockDialer {
	if socket == "" {
		return &vsock.Kernel{CID: cid}
	}
	return &vsock.Hybrid{Socket: socket}
}

var (
	_ hypervisor.VsockListener = (*vsock.Kernel)(nil)
	_ hypervisor.VsockListener = (*vsock.Hybrid)(nil)
)

// VsockDialer returns what leads into the guest, by the device that QEMU was started
// with, be it that one would be started with the other now.
func (vm *VM) VsockDialer() (hypervisor.VsockDialer, error) {
	c, err := vm.Vsock()
	if err != nil {
		return nil, vm.wrap("vsock", err)
	}
	return vsockDialer(c.VsockSocket, c.VsockCID), nil
}

// plugVsock starts the device of a VM that has one in user space, and plugs it in.
func (vm *VM) plugVsock(ctx context.Context) error {
	rec := vm.record()
	if rec == nil || !rec.Vsock {
		return nil
	}
	device, err := vm.start(ctx, vm.dir.vsockDevice(rec.Config.VMConfig), false)
	if err != nil {
		return fmt.Errorf("vsock device: %w", err)
	}
	if err = vm.awaitDevice(ctx, device); err == nil {
		err = vm.addVsock(ctx)
	}
	if err == nil && !vm.Spawn(func() { vm.keepVsock(device) }) {
		err = vm.conn.Err()
	}
	if err != nil {
		_ = device.End(context.WithoutCancel(ctx)) // the start failed already
		return fmt.Errorf("vsock device: %w", err)
	}
	return nil
}

// addVsock plugs the device in, once it has connected.
func (vm *VM) addVsock(ctx context.Context) error {
	if err := vm.awaitChardev(ctx, idVsockSock, true); err != nil {
		return err
	}
	args := map[string]any{"driver": "vhost-user-vsock-pci", "id": idVsock, "chardev": idVsockSock, "bus": idVsockPort}
	return vm.conn.Execute(ctx, "device_add", args, nil)
}

// chardevPoll is how often QEMU is asked whether it has taken a connection. No
// event tells of it; the first answer is mostly the last.
const chardevPoll = 5 * time.Millisecond

// awaitChardev waits until one of QEMU's sockets has a connection, or has none.
func (vm *VM) awaitChardev(ctx context.Context, id string, want bool) error {
	for {
		var devs []struct {
			Label    string `json:"label"`
			Filename string `json:"filename"`
		}
		if err := vm.conn.Execute(ctx, "query-chardev", nil, &devs); err != nil {
			return err
		}
		for _, d := range devs {
			if d.Label == id && !strings.HasPrefix(d.Filename, "disconnected:") == want {
				return nil
			}
		}
		if err := wait.For(ctx, chardevPoll); err != nil {
			if want {
				return fmt.Errorf("no process has connected to QEMU's %s: %w", id, err)
			}
			return fmt.Errorf("another process is connected to QEMU's %s: %w", id, err)
		}
	}
}

// The state of the vsock device is in another process, so that a snapshot has to do
// without it: it is taken away before and plugged in after, and all its streams end.
// Mostly it is ejected while the VM stands still. Where it cannot be, the guest
// has to give it up, and so must run.

// ejectVsock takes the device out of a VM that stands still.
func (s *saving) ejectVsock(ctx context.Context) error {
	if !s.m.hasVsockDevice() || !s.vm.record().Ejects {
		return nil
	}
	s.Undo(s.vm.replugVsock)
	there, err := s.vm.hasVsock(ctx)
	if err == nil && there {
		err = s.vm.eject(ctx)
	}
	if err != nil {
		return fmt.Errorf("vsock device: %w", err)
	}
	return nil
}

// unplugVsock has the guest give the device up where it cannot be ejected.
func (s *saving) unplugVsock(ctx context.Context, running bool) error {
	vm := s.vm
	if !s.m.hasVsockDevice() || vm.record().Ejects {
		return nil
	}
	if !running {
		return fmt.Errorf("the guest must run to release its vsock device on this machine: resume it first: %w", hypervisor.ErrBusy)
	}
	events := vm.conn.Subscribe()
	defer events.Close()
	if err := vm.conn.Execute(ctx, "device_del", map[string]any{"id": idVsock}, nil); err != nil {
		return fmt.Errorf("vsock device: %w", err)
	}
	s.Undo(vm.replugVsock)
	for {
		ev, err := events.Next(ctx)
		if err != nil {
			return fmt.Errorf("vsock device: the guest does not release it: %w", err)
		}
		if ev.Data["device"] != idVsock {
			continue
		}
		switch ev.Event {
		case "DEVICE_DELETED":
			return nil
		case "DEVICE_UNPLUG_GUEST_ERROR":
			return fmt.Errorf("vsock device: the guest refuses to release it: %w", hypervisor.ErrBusy)
		}
	}
}

// replugTries is how often, with chardevPoll between, QEMU is asked to take back a
// device that was taken out: it lets go of the character device a moment after it
// has said that the device is gone, and refuses until then. Nothing tells when.
const replugTries = 2000

// replugVsock plugs the device in if it is not there.
func (vm *VM) replugVsock(ctx context.Context) error {
	if there, err := vm.hasVsock(ctx); err != nil || there {
		return err
	}
	for try := 1; ; try++ {
		err := vm.addVsock(ctx)
		var refused *qmp.Error
		if err == nil || !errors.As(err, &refused) || refused.Class != qmp.ClassGeneric || try == replugTries {
			return err
		}
		if ended := wait.For(ctx, chardevPoll); ended != nil {
			return fmt.Errorf("%w (%w)", err, ended)
		}
	}
}

// hasVsock tells whether the device is plugged in.
func (vm *VM) hasVsock(ctx context.Context) (bool, error) {
	var devices []struct{ Name string }
	if err := vm.conn.Execute(ctx, "qom-list", map[string]any{"path": "/machine/peripheral"}, &devices); err != nil {
		return false, err
	}
	return slices.ContainsFunc(devices, func(d struct{ Name string }) bool { return d.Name == idVsock }), nil
}

func (m *manifest) hasVsockDevice() bool { return m.Config.VsockSocket != "" }
