package qemu

import "vmfs/backends/extras"

// settings are the extras of a VMConfig with this back end's prefix.
type settings struct {
	accel    string // qemu.accel: auto, kvm or tcg
	machine  string // qemu.machine: the machine type, such as q35 or pc-q35-7.2
	cpu      string // qemu.cpu: the CPU model with its features
	firmware string // qemu.firmware: the firmware's image instead of QEMU's own
	watchdog string // qemu.watchdog: adds a watchdog; what it does when it fires
}

const settingsPrefix = "qemu."

// settingKeys is every setting, with the values it may have.
var settingKeys = extras.Table{
	"qemu.accel":    {accelAuto, accelKVM, accelTCG},
	"qemu.binary":   nil, // the program, by path or by name in PATH: see package starter
	"qemu.cpu":      nil,
	"qemu.firmware": nil,
	"qemu.machine":  nil,
	"qemu.watchdog": {"reset", "pause", "poweroff", "none"},
}

// settingsOf reads the extras that are for this back end.
func settingsOf(all map[string]string) (settings, error) {
	if err := settingKeys.CheckAll(settingsPrefix, all); err != nil {
		return settings{}, err
	}
	return settings{
		accel: all["qemu.accel"], machine: all["qemu.machine"],
		cpu: all["qemu.cpu"], firmware: all["qemu.firmware"], watchdog: all["qemu.watchdog"],
	}, nil
}
