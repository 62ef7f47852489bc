package ctl

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"vmfs/machine"
)

// vmTable is the table of the ctl file of a VM: machine's. It is made once, since
// every command looks into it.
var vmTable = func() (table []Verb[*machine.VM]) {
	for _, v := range machine.Verbs() {
		table = append(table, Verb[*machine.VM]{v.Syntax, func(ctx context.Context, vm *machine.VM, args []string) error {
			return v.Run(ctx, vm, args)
		}})
	}
	return table
}()

// VMVerbs returns the table of the ctl file of a VM.
func VMVerbs() []Verb[*machine.VM] { return slices.Clone(vmTable) }

// Run carries out the control messages of text on the VM. What fails is kept
// as the VM's last error.
func Run(ctx context.Context, vm *machine.VM, text string) error {
	m, err := run(ctx, vmTable, vm, text)
	var bad *Error
	if errors.As(err, &bad) && bad.invalid {
		err = fmt.Errorf("%s: %w", vm.Name(), err)
	}
	if err != nil {
		vm.RecordError(m.Text, err)
	}
	return err
}

// ValidVerbs returns the verbs that the VM would take now, one usage a line, as
// reading its ctl file shows them.
func ValidVerbs(vm *machine.VM) string {
	var b strings.Builder
	for _, v := range vm.Valid() {
		fmt.Fprintln(&b, v.Usage())
	}
	return b.String()
}
