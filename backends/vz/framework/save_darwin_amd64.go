//go:build darwin && cgo

package framework

import (
	"errors"

	"github.com/Code-Hex/vz/v3"
)

var errIntel = errors.New("the state of a VM is saved on Apple silicon alone, and this is an Intel Mac")

func canSave() error                                     { return errIntel }
func validateSave(*vz.VirtualMachineConfiguration) error { return errIntel }
func save(*vz.VirtualMachine, string) error              { return errIntel }
func restore(*vz.VirtualMachine, string) error           { return errIntel }
