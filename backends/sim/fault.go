package sim

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"vmfs/backends/hypervisor"
)

// A Verb is a call that a fault can strike.
type Verb string

// The verbs; see the package's documentation.
const (
	VerbPause    Verb = "pause"
	VerbResume   Verb = "resume"
	VerbPowerOff Verb = "poweroff"
	VerbStop     Verb = "stop"
	VerbInfo     Verb = "info"
	VerbSnapshot Verb = "snapshot"
	VerbMemory   Verb = "memory"
	VerbReset    Verb = "reset"
	VerbNMI      Verb = "nmi"
	VerbDisk     Verb = "disk"
	VerbKill     Verb = "kill"
	VerbConsole  Verb = "console"
	VerbIdentify Verb = "identify"
	VerbConnect  Verb = "connect"
	VerbVsock    Verb = "vsock"
)

var verbs = []Verb{
	VerbPause, VerbResume, VerbPowerOff, VerbStop, VerbInfo, VerbSnapshot, VerbMemory,
	VerbReset, VerbNMI, VerbDisk, VerbKill, VerbConsole, VerbIdentify, VerbConnect, VerbVsock,
}

// A FaultKind says how something fails.
type FaultKind string

// The kinds of faults; see the package's documentation.
const (
	FaultHang       FaultKind = "hang"
	FaultCrash      FaultKind = "crash"
	FaultRefuse     FaultKind = "refuse"
	FaultSlowResize FaultKind = "slow-resize"
	FaultNoResize   FaultKind = "no-resize"
	FaultNoPowerOff FaultKind = "no-poweroff"
	FaultPanic      FaultKind = "panic"
	FaultIOError    FaultKind = "io-error"
	FaultStartFail  FaultKind = "start-fail"
	FaultStartHang  FaultKind = "start-hang"
	FaultSlowStart  FaultKind = "slow-start"
)

// A Fault is one thing that goes wrong.
type Fault struct {
	Kind FaultKind
	// Verb is what hang, crash and refuse strike; "" is every verb for hang and
	// refuse, and no verb but the passing of time for crash.
	Verb Verb
	// Delay is when crash, panic and io-error happen, and how long slow-start takes.
	Delay time.Duration
	// Rate is slow-resize's, in bytes a second.
	Rate int64
	// Err is what refuse and start-fail say.
	Err error
}

// argument is what may stand after the colon of a fault in a setting.
type argument int

const (
	noArgument argument = iota
	delayArgument
	rateArgument
	textArgument
)

var faultKinds = map[FaultKind]struct {
	verb     bool // takes @VERB
	argument argument
	required bool // the argument must be there
	start    bool // strikes the start, and so cannot be injected later
}{
	FaultHang:       {verb: true},
	FaultCrash:      {verb: true, argument: delayArgument},
	FaultRefuse:     {verb: true, argument: textArgument},
	FaultSlowResize: {argument: rateArgument, required: true},
	FaultNoResize:   {},
	FaultNoPowerOff: {},
	FaultPanic:      {argument: delayArgument},
	FaultIOError:    {argument: delayArgument},
	FaultStartFail:  {argument: textArgument, start: true},
	FaultStartHang:  {start: true},
	FaultSlowStart:  {argument: delayArgument, required: true, start: true},
}

// ParseFault reads a fault as settings have it: KIND[@VERB][:ARGUMENT].
func ParseFault(s string) (Fault, error) {
	head, arg, hasArg := strings.Cut(strings.TrimSpace(s), ":")
	kind, verb, hasVerb := strings.Cut(head, "@")
	f := Fault{Kind: FaultKind(kind), Verb: Verb(verb)}
	var err error
	if hasVerb && verb == "" {
		err = errors.New("no verb behind the @")
	}
	if hasArg && err == nil {
		switch faultKinds[f.Kind].argument {
		case delayArgument:
			f.Delay, err = time.ParseDuration(arg)
		case rateArgument:
			f.Rate, err = parseSize(arg)
		case textArgument:
			f.Err = errors.New(arg)
		default:
			err = errors.New("takes nothing after a colon")
		}
	}
	if err == nil {
		err = f.check()
	}
	if err != nil {
		return Fault{}, fmt.Errorf("fault %q: %w: %w", s, err, hypervisor.ErrInvalid)
	}
	return f, nil
}

// String is the fault as ParseFault reads it.
func (f Fault) String() string {
	s := string(f.Kind)
	if f.Verb != "" {
		s += "@" + string(f.Verb)
	}
	switch {
	case f.Rate != 0:
		s += ":" + strconv.FormatInt(f.Rate, 10)
	case f.Delay != 0:
		s += ":" + f.Delay.String()
	case f.Err != nil:
		s += ":" + f.Err.Error()
	}
	return s
}

func (f Fault) check() error {
	rule, ok := faultKinds[f.Kind]
	switch {
	case !ok:
		return errors.New("unknown kind")
	case f.Verb != "" && !rule.verb:
		return errors.New("takes no verb")
	case f.Verb != "" && !slices.Contains(verbs, f.Verb):
		return fmt.Errorf("unknown verb %q", f.Verb)
	case f.Kind == FaultHang && f.Verb == VerbConnect:
		return errors.New("connecting to a VMM that hangs works; hang what comes after it")
	case f.Delay < 0 || f.Rate < 0:
		return errors.New("must not be negative")
	case f.Delay != 0 && rule.argument != delayArgument:
		return errors.New("takes no delay")
	case f.Delay != 0 && f.Verb != "":
		return errors.New("takes a verb or a delay, not both")
	case rule.required && rule.argument == delayArgument && f.Delay == 0:
		return errors.New("needs a duration, as in " + string(f.Kind) + ":2s")
	case rule.required && rule.argument == rateArgument && f.Rate == 0:
		return errors.New("needs bytes a second, as in " + string(f.Kind) + ":64M")
	}
	return nil
}

func (f Fault) err() error {
	if f.Err != nil {
		return f.Err
	}
	return errors.New("refused by a fault")
}

// parseSize reads a number of bytes with K, M, G or T for powers of 1024.
func parseSize(s string) (int64, error) {
	digits, shift := s, 0
	for i, unit := range []string{"K", "M", "G", "T"} {
		if d, ok := strings.CutSuffix(s, unit); ok {
			digits, shift = d, 10*(i+1)
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64>>shift {
		return 0, fmt.Errorf("%q is not a number of bytes", s)
	}
	return n << shift, nil
}

// Inject adds a fault to a VM that lives. A crash without a verb, a panic and an
// I/O error without a delay have happened when it returns. It fails for a fault
// that makes no sense, is of the start, or if the VM is gone.
func (vm *VM) Inject(f Fault) error {
	if err := f.check(); err != nil {
		return fmt.Errorf("sim: inject %s: %w: %w", f, err, hypervisor.ErrInvalid)
	}
	if faultKinds[f.Kind].start {
		return fmt.Errorf("sim: inject %s: %s has started: %w", f, vm.name(), hypervisor.ErrInvalid)
	}
	vm.mu.Lock()
	defer vm.mu.Unlock()
	if vm.gone {
		return fmt.Errorf("sim: inject %s: %s: %w", f, vm.name(), hypervisor.ErrHypervisorNotRunning)
	}
	vm.strike(f)
	return nil
}

// Clear takes away the faults of the kinds given, or all without any. What hung
// goes on.
func (vm *VM) Clear(kinds ...FaultKind) {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	vm.faults = slices.DeleteFunc(vm.faults, func(f Fault) bool {
		return len(kinds) == 0 || slices.Contains(kinds, f.Kind)
	})
	vm.cond.Broadcast()
	vm.goOn()
}

// Faults returns the faults that the VM has now.
func (vm *VM) Faults() []Fault {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	return slices.Clone(vm.faults)
}

// strike lets a fault happen, or keeps it for when it is met. vm.mu is held.
func (vm *VM) strike(f Fault) {
	switch {
	case f.Kind == FaultCrash && f.Verb == "":
		vm.timer(f.Delay, func() { vm.end(nil) })
	case f.Kind == FaultPanic:
		vm.timer(f.Delay, vm.panicGuest)
	case f.Kind == FaultIOError:
		vm.timer(f.Delay, vm.failDisk)
	default:
		vm.faults = append(vm.faults, f)
		if f.Kind == FaultSlowResize || f.Kind == FaultNoResize {
			vm.follow()
		}
	}
}

// fault finds a fault of the kind that strikes verb. vm.mu is held.
func (vm *VM) fault(kind FaultKind, verb Verb) (Fault, bool) {
	for _, f := range vm.faults {
		if f.Kind == kind && (f.Verb == verb || f.Verb == "") {
			return f, true
		}
	}
	return Fault{}, false
}

// hangs says whether verb must wait. vm.mu is held.
func (vm *VM) hangs(verb Verb) bool {
	f, ok := vm.fault(FaultHang, verb)
	if !ok {
		return false
	}
	if f.Verb == "" && verb == VerbKill {
		// A hung VMM can be killed; a fault at kill itself may stand beside.
		return slices.ContainsFunc(vm.faults, func(f Fault) bool { return f.Kind == FaultHang && f.Verb == verb })
	}
	return true
}

// frozen says whether the whole VMM hangs. vm.mu is held.
func (vm *VM) frozen() bool {
	return slices.ContainsFunc(vm.faults, func(f Fault) bool { return f.Kind == FaultHang && f.Verb == "" })
}

// meet lets the faults at verb happen that do not wait. vm.mu is held.
func (vm *VM) meet(verb Verb) error {
	if vm.gone {
		return hypervisor.ErrHypervisorNotRunning
	}
	// A crash without a verb is never kept, so that this finds verb's own.
	if _, ok := vm.fault(FaultCrash, verb); ok {
		vm.end(nil)
		return hypervisor.ErrHypervisorNotRunning
	}
	if f, ok := vm.fault(FaultRefuse, verb); ok {
		return f.err()
	}
	return nil
}
