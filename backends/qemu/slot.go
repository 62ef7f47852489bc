package qemu

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"vmfs/backends/handle"
)

// A slot is the PCI Express slot of the vsock device, by the registers of its port.
// They are reached through the I/O ports by which firmware reads PCI's
// configuration. Nobody else uses those while the VM stands still.
type slot struct {
	vm   *VM
	port uint32 // the port's address as it is written to configAddress, without a register
}

const (
	configAddress = 0xcf8
	configData    = 0xcfc

	firstCapability   = 0x34
	capabilityExpress = 0x10
	slotControl       = 0x18 // in the PCI Express capability
	slotPowerOff      = 1 << 10
	slotDark          = 3 << 8 // the power indicator is off
)

// ejects tells whether the vsock device can be taken out without the guest: where
// it is the port that tells the guest of changes, as the device was pulled and put
// in, and not ACPI, which has the guest look only for what is new. The port must
// not have the power controller that it mostly has: a guest that has found the old
// device gone would switch off the new one.
func (p *plan) ejects() bool { return p.arch.ports && strings.Contains(p.machine, "q35") }

// vsockSlot makes the slot of the vsock device.
func (p *plan) vsockSlot(a *commandLine) {
	port := opt("pcie-root-port").set("id", idVsockPort).num("chassis", 1).num("slot", 1)
	if p.ejects() {
		port.on("power_controller_present", false)
		if atLeast(p.program.Version, 6, 1) { // those before have ACPI for other machines alone
			a.text("global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off")
		}
	}
	a.opt("device", p.place(port, slotVsock))
}

// eject takes the vsock device out of a VM that stands still, as if it were pulled.
// A guest that goes on finds that out, and then that there is one again.
func (vm *VM) eject(ctx context.Context) error {
	s := &slot{vm: vm}
	if err := s.find(ctx); err != nil {
		return err
	}
	events := vm.conn.Subscribe()
	defer events.Close()
	if err := s.configure(ctx, s.switchOff); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, handle.AskTimeout)
	defer cancel()
	for {
		ev, err := events.Next(ctx)
		if err != nil {
			return fmt.Errorf("QEMU does not release it: %w", err)
		}
		if ev.Event == "DEVICE_DELETED" && ev.Data["device"] == idVsock {
			return nil
		}
	}
}

// find asks for the port's address.
func (s *slot) find(ctx context.Context) error {
	var buses []struct {
		Devices []struct {
			ID       string `json:"qdev_id"`
			Bus      uint32 `json:"bus"`
			Slot     uint32 `json:"slot"`
			Function uint32 `json:"function"`
		} `json:"devices"`
	}
	if err := s.vm.conn.Execute(ctx, "query-pci", nil, &buses); err != nil {
		return err
	}
	for _, b := range buses {
		for _, d := range b.Devices {
			if d.ID == idVsockPort {
				s.port = 1<<31 | d.Bus<<16 | d.Slot<<11 | d.Function<<8
				return nil
			}
		}
	}
	return fmt.Errorf("QEMU has no port %s", idVsockPort)
}

// configure calls f, which may read and write the port's registers. The guest may
// have been stopped as it was about to do the same: what it had begun is kept for it.
func (s *slot) configure(ctx context.Context, f func(context.Context) error) error {
	begun, err := s.in(ctx, configAddress)
	if err != nil {
		return err
	}
	err = f(ctx)
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), handle.AskTimeout)
	defer cancel()
	return errors.Join(err, s.out(late, 'w', configAddress, begun))
}

// switchOff has the port let go of its device, and then be as it was.
func (s *slot) switchOff(ctx context.Context) error {
	at, err := s.read(ctx, firstCapability)
	for range 48 { // as many as there is room for
		if at &= 0xfc; err != nil || at == 0 {
			break
		}
		var head uint32
		if head, err = s.read(ctx, at); err != nil {
			break
		}
		if head&0xff != capabilityExpress {
			at = head >> 8
			continue
		}
		control, err := s.read(ctx, at+slotControl) // and the slot's status above it
		if err == nil {
			err = s.write(ctx, at+slotControl, uint16(control|slotPowerOff|slotDark))
		}
		if err == nil {
			err = s.write(ctx, at+slotControl, uint16(control))
		}
		return err
	}
	if err == nil {
		err = fmt.Errorf("the port %s has no slot", idVsockPort)
	}
	return err
}

// read reads the 32 bits of a register.
func (s *slot) read(ctx context.Context, register uint32) (uint32, error) {
	if err := s.out(ctx, 'w', configAddress, s.port|register); err != nil {
		return 0, err
	}
	return s.in(ctx, configData)
}

// write writes the lower half of a register.
func (s *slot) write(ctx context.Context, register uint32, value uint16) error {
	if err := s.out(ctx, 'w', configAddress, s.port|register); err != nil {
		return err
	}
	return s.out(ctx, 'h', configData, uint32(value))
}

// in reads the 32 bits of an I/O port.
func (s *slot) in(ctx context.Context, port uint32) (uint32, error) {
	said, err := s.say(ctx, fmt.Sprintf("i /w %#x", port))
	if err != nil {
		return 0, err
	}
	_, value, ok := strings.Cut(said, "=") // portl[0x0cfc] = 0x00000000
	n, err := strconv.ParseUint(strings.TrimSpace(value), 0, 32)
	if !ok || err != nil {
		return 0, fmt.Errorf("QEMU's monitor says %q of the I/O port %#x", said, port)
	}
	return uint32(n), nil
}

// out writes to an I/O port: 32 bits if size is w, 16 if it is h.
func (s *slot) out(ctx context.Context, size byte, port, value uint32) error {
	said, err := s.say(ctx, fmt.Sprintf("o /%c %#x %#x", size, port, value))
	if err == nil && said != "" {
		err = fmt.Errorf("QEMU's monitor says %q of the I/O port %#x", said, port)
	}
	return err
}

// say has QEMU's own monitor do what QMP cannot.
func (s *slot) say(ctx context.Context, line string) (said string, err error) {
	err = s.vm.conn.Execute(ctx, "human-monitor-command", map[string]any{"command-line": line}, &said)
	return strings.TrimSpace(said), err
}
