package ctl

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"vmfs/backends/hypervisor"
	"vmfs/machine"
	"vmfs/machine/config"
	"vmfs/machine/rc"
)

var errUnknown = errors.New("unknown control message")

// states are the words that wait takes.
var states = []hypervisor.VMState{
	hypervisor.StateCreated, hypervisor.StateRunning, hypervisor.StatePaused, hypervisor.StateShutdown,
}

var vmTable = []Verb[*machine.VM]{
	{
		Name: "start", Help: "starts the VM",
		run: simple((*machine.VM).Start),
	},
	{
		Name: "pause", Help: "stops the virtual CPUs", Needs: "pause",
		run: simple((*machine.VM).Pause),
	},
	{
		Name: "resume", Help: "lets the virtual CPUs go on", Needs: "pause",
		run: simple((*machine.VM).Resume),
	},
	{
		Name: "poweroff", Help: "asks the guest to power off, as the power button does; it may take its time",
		run: simple((*machine.VM).PowerOff),
	},
	{
		Name: "stop", Help: "ends the hypervisor cleanly, by force after a deadline",
		run: simple((*machine.VM).Stop),
	},
	{
		Name: "kill", Help: "ends the hypervisor at once, whatever it is doing, and the command under way with it",
		run: simple((*machine.VM).Kill),
	},
	{
		Name: "reset", Help: "resets the VM, as the reset button does",
		run: simple((*machine.VM).Reset),
	},
	{
		Name: "snapshot", Args: "NAME", Min: 1, Max: 1, Help: "saves the VM as snapshots/NAME", Needs: "snapshot",
		run: func(ctx context.Context, vm *machine.VM, args []string) error { return vm.Snapshot(ctx, args[0]) },
	},
	{
		Name: "restore", Args: "NAME", Min: 1, Max: 1, Help: "makes the VM what it was in snapshots/NAME, paused", Needs: "snapshot",
		run: func(ctx context.Context, vm *machine.VM, args []string) error { return vm.Restore(ctx, args[0]) },
	},
	{
		Name: "memory", Args: "SIZE [wait DURATION]", Min: 1, Max: 3, Needs: "memory",
		Help: "sets the guest's memory target; with wait, returns when the guest has reached it",
		run:  memory,
	},
	{
		Name: "set", Args: "KEY=VALUE…", Min: 1, Max: -1, Help: "merges settings into config",
		run: set,
	},
	{
		Name: "wait", Args: "STATE [DURATION]", Min: 1, Max: 2, Help: "returns when the VM is created, running, paused or shutdown",
		run: wait,
	},
	{
		Name: "cancel", Help: "cancels the command under way",
		run: func(_ context.Context, vm *machine.VM, _ []string) error { return vm.Cancel() },
	},
}

// VMVerbs returns the table of the ctl file of a VM.
func VMVerbs() []Verb[*machine.VM] { return slices.Clone(vmTable) }

func simple(f func(*machine.VM, context.Context) error) func(context.Context, *machine.VM, []string) error {
	return func(ctx context.Context, vm *machine.VM, _ []string) error { return f(vm, ctx) }
}

// Run carries out the control messages of text on the VM. What fails is kept
// as the VM's last error.
func Run(ctx context.Context, vm *machine.VM, text string) error {
	m, err := run(ctx, vmTable, vm, text, func(v Verb[*machine.VM]) error { return able(vm, v) })
	var bad *Error
	if errors.As(err, &bad) && bad.invalid {
		err = fmt.Errorf("%s: %w", vm.Name(), err)
	}
	if err != nil {
		vm.RecordError(m.Text, err)
	}
	return err
}

// able checks the capability that the verb needs.
func able(vm *machine.VM, v Verb[*machine.VM]) error {
	if v.Needs == "" || slices.Contains(vm.Capabilities().Words(), v.Needs) {
		return nil
	}
	return fmt.Errorf("%s %s: hypervisor %s cannot do it: %w", v.Name, vm.Name(), vm.Config().Type(), hypervisor.ErrNotSupported)
}

// ValidVerbs returns the verbs that the VM would take now, one usage a line, as
// reading its ctl file shows them.
func ValidVerbs(vm *machine.VM) string {
	st := vm.Status()
	var b strings.Builder
	for _, v := range vmTable {
		if able(vm, v) == nil && valid(v.Name, st) {
			b.WriteString(v.Usage())
			b.WriteByte('\n')
		}
	}
	return b.String()
}

// valid reports whether a VM that is as st says would take the verb.
func valid(verb string, st machine.Status) bool {
	switch {
	case verb == "cancel":
		return st.Busy != ""
	case verb == "kill" && st.Busy != "", verb == "wait":
		return true
	}
	return st.Busy == "" && slices.Contains(machine.ValidIn(verb), st.State)
}

func memory(ctx context.Context, vm *machine.VM, args []string) error {
	size, err := config.ParseSize(args[0])
	if err != nil {
		return invalid("memory", vm, err)
	}
	var timeout time.Duration
	if len(args) > 1 {
		if args[1] != "wait" || len(args) != 3 {
			return invalid("memory", vm, errors.New("want memory SIZE [wait DURATION]"))
		}
		if timeout, err = parseDuration(args[2]); err != nil {
			return invalid("memory", vm, err)
		}
	}
	return vm.ResizeMemory(ctx, size, timeout)
}

func set(_ context.Context, vm *machine.VM, args []string) error {
	var text strings.Builder
	for _, a := range args {
		key, value, ok := strings.Cut(a, "=")
		if !ok || strings.ContainsAny(a, "\n") {
			return invalid("set", vm, fmt.Errorf("%q is not KEY=VALUE", a))
		}
		text.WriteString(key + "=")
		if value != "" {
			text.WriteString(rc.Quote(value))
		}
		text.WriteByte('\n')
	}
	return vm.SetConfig(text.String(), false)
}

func wait(ctx context.Context, vm *machine.VM, args []string) error {
	want := hypervisor.VMState(args[0])
	if !slices.Contains(states, want) {
		return invalid("wait", vm, fmt.Errorf("%q is not a state: there are created, running, paused and shutdown", args[0]))
	}
	if len(args) == 2 {
		d, err := parseDuration(args[1])
		if err != nil {
			return invalid("wait", vm, err)
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, d, &waitEnd{context.DeadlineExceeded, "not within " + d.String()})
		defer cancel()
	}
	st, err := vm.Watch(ctx, func(st machine.Status) bool { return st.State == want })
	if err != nil {
		var end *waitEnd
		switch {
		case ctx.Err() == nil:
		case errors.As(context.Cause(ctx), &end):
			err = end
		case errors.Is(err, context.Canceled):
			err = &waitEnd{err, "given up by who waited"}
		}
		return fmt.Errorf("wait %s for %s, which is %s: %w", vm.Name(), want, st.State, err)
	}
	return nil
}

// A waitEnd is err, in words for people.
type waitEnd struct {
	err  error
	text string
}

func (e *waitEnd) Error() string { return e.text }
func (e *waitEnd) Unwrap() error { return e.err }

func parseDuration(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("%q is not a duration: want a number with ms, s, m or h (10s, 1m30s)", s)
	}
	return d, nil
}

func invalid(verb string, vm *machine.VM, err error) error {
	return fmt.Errorf("%s %s: %w: %w", verb, vm.Name(), hypervisor.ErrInvalid, err)
}
