package qemu

import (
	"cmp"
	"context"
	"errors"
	"strconv"
	"time"

	"vmfs/backends/companion"
	"vmfs/backends/hypervisor"
	"vmfs/backends/qemu/qmp"
	"vmfs/backends/qemu/vsockdev"
	"vmfs/internal/wait"
)

// EventVsock is a kind of event beside those of package hypervisor: the vsock
// device of a VM was started anew. Detail "device" is restarted, "pid" its new
// process; the streams that it carried are lost.
const EventVsock hypervisor.EventKind = "vsock"

// ownEnd is how long a device may take to end after its QEMU. It then does so by
// itself.
const ownEnd = 100 * time.Millisecond

// reviveTimeout bounds what gets the guest's rings going again.
const reviveTimeout = 30 * time.Second

// busyDevice keeps other commands out, in words for those.
const busyDevice = "the vsock device is being restarted"

// vsockDevice is what the device of the VM of this directory needs to know.
func (d runDir) vsockDevice(c hypervisor.VMConfig) vsockdev.Config {
	return vsockdev.Config{QEMUSocket: d.vhost(), Socket: c.VsockSocket, CID: c.VsockCID, Log: cmp.Or(c.LogPath, d.Log())}
}

// startDevice starts a VM's device. Where QEMU has run for a while it finds the one
// that an earlier server started.
func startDevice(ctx context.Context, c vsockdev.Config, find bool) (*companion.Companion, error) {
	if find {
		return vsockdev.FindOrStart(ctx, c)
	}
	return vsockdev.Start(ctx, c)
}

// adoptVsock keeps the device of a VM that another server started.
func (vm *VM) adoptVsock() {
	if rec := vm.record(); rec != nil && rec.Vsock && vsockdev.Supported {
		vm.Spawn(func() { vm.keepVsock(nil) })
	}
}

// keepVsock sees to it that the VM has its device for as long as the handle is
// there, and that the device ends with the VM. A nil device is to be found, or
// started if it has ended. It runs beside the handle's callers.
func (vm *VM) keepVsock(device *companion.Companion) {
	ctx, cancel := vm.connected()
	defer cancel()
	k := companion.Keeper{
		What: "the vsock device", Revive: vm.reviveVsock, Over: vm.qemuGone, Linger: ownEnd, Log: vm.Log,
	}
	k.Run(ctx, device)
}

// connected returns a context that ends with the connection to QEMU and the handle.
func (vm *VM) connected() (context.Context, context.CancelFunc) {
	return wait.While(vm.Life, vm.conn.Done())
}

// qemuGone tells whether QEMU, not only the connection to it, has ended.
func (vm *VM) qemuGone() bool {
	if errors.Is(vm.conn.Err(), qmp.ErrDisconnected) || vm.Child != nil && vm.Child.How() != "" {
		return true
	}
	vm.mu.Lock()
	proc := vm.proc
	vm.mu.Unlock()
	return !proc.IsZero() && !proc.Alive()
}

// reviveVsock finds or starts the device of a running VM, and gets the guest's
// rings going again if it was started.
func (vm *VM) reviveVsock(ctx context.Context, adopt bool) (*companion.Companion, error) {
	device, err := vm.start(ctx, vm.dir.vsockDevice(vm.record().Config.VMConfig), true)
	if err != nil {
		return nil, err
	}
	if adopt {
		err = vm.settleVsock(ctx, device)
	} else {
		err = vm.reconnectVsock(ctx, device)
	}
	if err != nil {
		_ = device.End(context.WithoutCancel(ctx)) // it is of no use
		return nil, err
	}
	return device, nil
}

// reconnectVsock waits for a new device to take the place of one that died, and
// has QEMU hand it the rings, for which the VM must stop and go on. A VM that
// stands still stays so: QEMU does it when the VM goes on.
func (vm *VM) reconnectVsock(ctx context.Context, device *companion.Companion) error {
	if err := vm.awaitDevice(ctx, device); err != nil {
		return err
	}
	e := hypervisor.Event{Kind: EventVsock, Time: time.Now(), Detail: []hypervisor.Detail{
		{Key: "device", Value: "restarted"}, {Key: "pid", Value: strconv.Itoa(device.PID)},
	}}
	vm.Tell(e)
	release, err := vm.Gate.Hold(busyDevice, true)
	if err != nil {
		return nil // a snapshot takes the device out and puts it in, which does as well
	}
	defer release()
	status, err := vm.status(ctx)
	if err != nil || status != "running" {
		return err
	}
	vm.mu.Lock()
	vm.unsaid++
	vm.mu.Unlock()
	if err := vm.order(ctx, "stop"); err != nil {
		vm.mu.Lock()
		vm.unsaid--
		vm.mu.Unlock()
		return err
	}
	// It must go on again, whatever else happens.
	ctx, cancel := context.WithTimeout(vm.Life, reviveTimeout)
	defer cancel()
	return vm.order(ctx, "cont")
}

// settleVsock makes sure that a device which was found, or started in the place of
// one that died unseen, is the guest's.
func (vm *VM) settleVsock(ctx context.Context, device *companion.Companion) error {
	if !device.Adopted {
		if err := vm.reconnectVsock(ctx, device); err != nil {
			return err
		}
	}
	// A server that died in a start or a snapshot may have left the device out.
	return vm.replugVsock(ctx)
}

// awaitDevice waits until the device has connected to QEMU.
func (vm *VM) awaitDevice(ctx context.Context, device *companion.Companion) error {
	ctx, cancel := context.WithCancelCause(ctx)
	over := make(chan struct{})
	go func() { // ends with this call
		defer close(over)
		if device.Wait(ctx) == nil {
			cancel(errors.New("the device ended before it had connected; see the VM's log"))
		}
	}()
	err := vm.awaitChardev(ctx, idVsockSock, true)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	cancel(nil)
	<-over
	return err
}
