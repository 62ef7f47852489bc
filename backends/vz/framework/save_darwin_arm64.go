//go:build darwin && cgo

package framework

import (
	"errors"
	"time"

	"github.com/Code-Hex/vz/v3"
)

// canSave tells whether the framework saves a machine's state. It makes a disk of macOS
// 14, of a server that is never connected to.
func canSave() error {
	_, err := vz.NewNetworkBlockDeviceStorageDeviceAttachment("nbd://127.0.0.1:1/none", time.Second, true, vz.DiskSynchronizationModeNone)
	return takes("to save the state of a VM", 14, err)
}

// validateSave has the framework say what of a configuration cannot be saved. It must not
// be called where canSave fails.
func validateSave(c *vz.VirtualMachineConfiguration) error {
	ok, err := c.ValidateSaveRestoreSupport()
	if err == nil && !ok {
		err = errors.New("the framework cannot save a VM of this configuration, and does not say why")
	}
	return err
}

func save(vm *vz.VirtualMachine, path string) error    { return vm.SaveMachineStateToPath(path) }
func restore(vm *vz.VirtualMachine, path string) error { return vm.RestoreMachineStateFromURL(path) }
