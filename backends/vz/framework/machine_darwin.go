//go:build darwin && cgo

package framework

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"reflect"
	"slices"
	"syscall"
	"unsafe"

	"github.com/Code-Hex/vz/v3"

	"vmfs/backends/vz/shim"
	"vmfs/backends/vz/shimconfig"
)

// machine is one VM. It keeps the files open, which vz has by their numbers alone.
type machine struct {
	vm      *vz.VirtualMachine
	made    *made
	files   shim.Files
	vsock   *vz.VirtioSocketDevice
	balloon *vz.VirtioTraditionalMemoryBalloonDevice
	changes chan shim.Change
	ports   ports
}

var states = map[vz.VirtualMachineState]shim.State{
	vz.VirtualMachineStateStopped:   shim.StateStopped,
	vz.VirtualMachineStateRunning:   shim.StateRunning,
	vz.VirtualMachineStatePaused:    shim.StatePaused,
	vz.VirtualMachineStateError:     shim.StateError,
	vz.VirtualMachineStateStarting:  shim.StateStarting,
	vz.VirtualMachineStatePausing:   shim.StatePausing,
	vz.VirtualMachineStateResuming:  shim.StateResuming,
	vz.VirtualMachineStateStopping:  shim.StateStopping,
	vz.VirtualMachineStateSaving:    shim.StateSaving,
	vz.VirtualMachineStateRestoring: shim.StateRestoring,
}

func (m *machine) Changes() <-chan shim.Change { return m.changes }

// tell sends what happens to the VM, for as long as the process lives.
func (m *machine) tell() {
	lost, err := m.vm.NetworkDeviceAttachmentWasDisconnected()
	if err != nil {
		lost = nil // macOS 11 does not tell
	}
	for {
		select {
		case s := <-m.vm.StateChangedNotify():
			m.changes <- shim.Change{State: states[s]}
		case l, ok := <-lost:
			if !ok {
				lost = nil
				continue
			}
			c := shim.Change{Err: l.Err}
			if i := slices.Index(m.made.nets, l.Config); i >= 0 {
				c.Net = m.made.macs[i]
			}
			m.changes <- c
		}
	}
}

func (m *machine) Can(a shim.Action) bool {
	switch a {
	case shim.ActionStart:
		return m.vm.CanStart()
	case shim.ActionPause:
		return m.vm.CanPause()
	case shim.ActionResume:
		return m.vm.CanResume()
	case shim.ActionStop:
		return m.vm.CanStop()
	case shim.ActionRequestStop:
		return m.vm.CanRequestStop()
	}
	return false
}

func (m *machine) Start() error  { return m.vm.Start() }
func (m *machine) Pause() error  { return m.vm.Pause() }
func (m *machine) Resume() error { return m.vm.Resume() }
func (m *machine) Stop() error   { return takes("to stop a VM", 12, m.vm.Stop()) }

func (m *machine) RequestStop() error {
	ok, err := m.vm.RequestStop()
	if err == nil && !ok {
		err = errors.New("the framework did not press the guest's power button, and does not say why")
	}
	return err
}

func (m *machine) Save(path string) error {
	if m.made.support.NoSave != "" {
		return fmt.Errorf("%s: %w", m.made.support.NoSave, errors.ErrUnsupported)
	}
	if _, err := os.Lstat(path); err == nil {
		return &fs.PathError{Op: "save", Path: path, Err: fs.ErrExist}
	}
	return save(m.vm, path)
}

func (m *machine) Restore(path string) error {
	if m.made.support.NoSave != "" {
		return fmt.Errorf("%s: %w", m.made.support.NoSave, errors.ErrUnsupported)
	}
	return restore(m.vm, path)
}

func (m *machine) Support() shimconfig.Support { return m.made.support }

func (m *machine) Identifier() []byte { return m.made.identifier }

func (m *machine) SetMemoryTarget(bytes int64) error {
	if m.balloon == nil {
		return fmt.Errorf("the VM has no balloon: %w", errors.ErrUnsupported)
	}
	m.balloon.SetTargetVirtualMachineMemorySize(uint64(bytes))
	return nil
}

func (m *machine) Connect(port uint32) (shim.Conn, error) {
	if m.vsock == nil {
		return nil, fmt.Errorf("the VM has no vsock device: %w", errors.ErrUnsupported)
	}
	c, err := m.vsock.Connect(port)
	var ns *vz.NSError
	if errors.As(err, &ns) && ns != nil && ns.Domain == "NSPOSIXErrorDomain" &&
		(syscall.Errno(ns.Code) == syscall.ECONNRESET || syscall.Errno(ns.Code) == syscall.ECONNREFUSED) {
		return nil, fmt.Errorf("port %d: %w", port, shim.ErrRefused)
	}
	if err != nil {
		return nil, fmt.Errorf("port %d: %w", port, err)
	}
	return stream(c), nil
}

// stream returns the connection within a stream of vz, a Unix socket: that alone can end
// its two directions apart.
func stream(c *vz.VirtioSocketConnection) shim.Conn {
	if f := reflect.ValueOf(c).Elem().FieldByName("rawConn"); f.IsValid() && f.Type() == reflect.TypeFor[net.Conn]() {
		if u, ok := (*(*net.Conn)(unsafe.Pointer(f.UnsafeAddr()))).(*net.UnixConn); ok {
			return u
		}
	}
	return whole{c}
}

// whole is a stream whose directions end together.
type whole struct{ *vz.VirtioSocketConnection }

func (whole) CloseWrite() error {
	return fmt.Errorf("this vz has no half-close: %w", errors.ErrUnsupported)
}

func (m *machine) Listen(port uint32) (shim.Listener, error) {
	if m.vsock == nil {
		return nil, fmt.Errorf("the VM has no vsock device: %w", errors.ErrUnsupported)
	}
	return m.ports.listen(port)
}

// listen has the framework listen to a port of the host, for good.
func (m *machine) listen(port uint32) (accept func() (shim.Conn, error), err error) {
	l, err := m.vsock.Listen(port)
	if err != nil {
		return nil, err
	}
	return func() (shim.Conn, error) {
		c, err := l.AcceptVirtioSocketConnection()
		if err != nil {
			return nil, err
		}
		return stream(c), nil
	}, nil
}
