package cloudhypervisor

import "vmfs/backends/extras"

const settingsPrefix = "cloud-hypervisor."

// The settings, which are extras of a VMConfig.
const (
	keyBinary   = settingsPrefix + "binary"   // the program, by path or by name in PATH
	keyFirmware = settingsPrefix + "firmware" // what boots the guest from a disk, in place of a kernel
)

// settingKeys is every setting, with the values it may have.
var settingKeys = extras.Table{keyBinary: nil, keyFirmware: nil}
