package machine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"vmfs/backends/hypervisor"
	"vmfs/machine/config"
	"vmfs/machine/rc"
)

// Syntax is what a control message looks like.
type Syntax struct {
	Name string
	Args string // the arguments as usage shows them: NAME is one word, [X] may be left out, X… is one or more
	Help string
	Min  int // the fewest arguments
	Max  int // the most; -1 is no limit
}

// Usage returns the verb with its arguments.
func (s Syntax) Usage() string { return strings.TrimSpace(s.Name + " " + s.Args) }

// A Verb is a command of VMs. Its row in the table of verbs is all that is known of
// it: control messages, checks, hints, help and manual are made from that.
type Verb struct {
	Syntax
	In    []hypervisor.VMState  // the states in which it can be done
	To    hypervisor.VMState    // the state that it leads to; "" where that is none or not certain
	Needs hypervisor.Capability // what the VM must be capable of; "" is nothing
	busy  whenBusy
	// reconfigures tells that the VM gets another configuration, so that what it is
	// capable of with that of now does not count.
	reconfigures bool
	// Run carries out the control message. It is nil for a command that is not given
	// by one.
	Run func(ctx context.Context, v *VM, args []string) error
}

// whenBusy says what becomes of a verb while a command is under way.
type whenBusy int

const (
	refused  whenBusy = iota // there is one command at a time
	taken                    // in every state: it is no command, or ends the one under way
	onlyBusy                 // taken then, and of no use otherwise
)

// Takes reports whether a VM that is as st says takes the verb.
func (vb *Verb) Takes(st Status) bool {
	if st.Busy != "" {
		return vb.busy != refused
	}
	return vb.busy != onlyBusy && slices.Contains(vb.In, st.State)
}

var (
	inDown    = []hypervisor.VMState{hypervisor.StateCreated, hypervisor.StateShutdown}
	inLive    = []hypervisor.VMState{hypervisor.StateRunning, hypervisor.StatePaused}
	inRunning = []hypervisor.VMState{hypervisor.StateRunning}
	inPaused  = []hypervisor.VMState{hypervisor.StatePaused}
	inAny     = []hypervisor.VMState{hypervisor.StateCreated, hypervisor.StateRunning, hypervisor.StatePaused, hypervisor.StateShutdown}
)

// verbs is the table of verbs. It is set by init, for its functions look into it.
var verbs []Verb

func init() {
	verbs = []Verb{
		{
			Syntax: Syntax{Name: "start", Help: "starts the VM"},
			In:     inDown, To: hypervisor.StateRunning, Run: plain((*VM).Start),
		},
		{
			Syntax: Syntax{Name: "pause", Help: "stops the virtual CPUs"},
			In:     inRunning, To: hypervisor.StatePaused, Needs: hypervisor.CanPause, Run: plain((*VM).Pause),
		},
		{
			Syntax: Syntax{Name: "resume", Help: "lets the virtual CPUs go on"},
			In:     inPaused, To: hypervisor.StateRunning, Needs: hypervisor.CanPause, Run: plain((*VM).Resume),
		},
		{
			Syntax: Syntax{Name: "poweroff", Help: "asks the guest to power off, as the power button does; it may take its time"},
			In:     inLive, Run: plain((*VM).PowerOff),
		},
		{
			Syntax: Syntax{Name: "stop", Help: "ends the hypervisor cleanly, by force after a deadline"},
			In:     inLive, To: hypervisor.StateShutdown, Run: plain((*VM).Stop),
		},
		{
			Syntax: Syntax{Name: "kill", Help: "ends the hypervisor at once, whatever it is doing, and the command under way with it"},
			In:     inLive, busy: taken, Run: plain((*VM).Kill),
		},
		{
			Syntax: Syntax{Name: "reset", Help: "resets the VM, as the reset button does"},
			In:     inLive, Run: plain((*VM).Reset),
		},
		{
			Syntax: Syntax{Name: "nmi", Help: "sends the guest a non-maskable interrupt, as the NMI button does; what it makes of it is its own affair"},
			In:     inRunning, Run: plain((*VM).InjectNMI),
		},
		{
			Syntax: Syntax{Name: "snapshot", Args: "NAME", Min: 1, Max: 1, Help: "saves the VM as snapshots/NAME"},
			In:     inLive, Needs: hypervisor.CanSnapshot,
			Run: func(ctx context.Context, v *VM, args []string) error { return v.Snapshot(ctx, args[0]) },
		},
		{
			Syntax: Syntax{Name: "restore", Args: "NAME [KEY=VALUE…]", Min: 1, Max: -1, Help: "makes the VM what it was in snapshots/NAME, paused; settings say what is elsewhere now"},
			In:     inDown, Needs: hypervisor.CanSnapshot, reconfigures: true,
			Run: runRestore,
		},
		{
			Syntax: Syntax{
				Name: "memory", Args: "SIZE [wait DURATION]", Min: 1, Max: 3,
				Help: "sets the guest's memory target; with wait, returns when the guest has reached it",
			},
			In: inAny, Needs: hypervisor.CanHotplugMemory, Run: runMemory,
		},
		{
			Syntax: Syntax{Name: "set", Args: "KEY=VALUE…", Min: 1, Max: -1, Help: "merges settings into config"},
			In:     inAny, Run: runSet,
		},
		{
			Syntax: Syntax{Name: "wait", Args: "STATE [DURATION]", Min: 1, Max: 2, Help: "returns when the VM is created, running, paused or shutdown"},
			In:     inAny, busy: taken, Run: runWait,
		},
		{
			Syntax: Syntax{Name: "cancel", Help: "cancels the command under way"},
			In:     inAny, busy: onlyBusy, Run: plain((*VM).Cancel),
		},
		{Syntax: Syntax{Name: "delete"}, In: inDown},         // rmdir, and `delete` of the server's ctl
		{Syntax: Syntax{Name: "delete-snapshot"}, In: inAny}, // rmdir in snapshots
	}
}

// Verbs returns the verbs that are control messages, in the order in which people
// should see them.
func Verbs() []Verb {
	return slices.DeleteFunc(slices.Clone(verbs), func(vb Verb) bool { return vb.Run == nil })
}

// verbNamed returns the row of a verb. That there is one is a matter of this package.
func verbNamed(name string) *Verb {
	for i := range verbs {
		if verbs[i].Name == name {
			return &verbs[i]
		}
	}
	panic("machine: no verb " + name)
}

// whyNot says why the state does not allow the verb, and what to do about it.
func (vb *Verb) whyNot(state hypervisor.VMState) string {
	if vb.To == state {
		return string(state) + " already"
	}
	// What comes to the same from this state, or leads to one that allows the verb.
	var first []string
	for _, other := range verbs {
		if slices.Contains(other.In, state) && other.To != "" && (other.To == vb.To || slices.Contains(vb.In, other.To)) {
			first = append(first, other.Name)
		}
	}
	if len(first) == 0 {
		return string(state) + ": it takes that while it is " + joinWords(vb.In)
	}
	return string(state) + ": " + joinWords(first) + " it first"
}

func joinWords[T ~string](list []T) string {
	words := make([]string, len(list))
	for i, w := range list {
		words[i] = string(w)
	}
	return strings.Join(words, " or ")
}

func plain(f func(*VM, context.Context) error) func(context.Context, *VM, []string) error {
	return func(ctx context.Context, v *VM, _ []string) error { return f(v, ctx) }
}

func runMemory(ctx context.Context, v *VM, args []string) error {
	size, err := config.ParseSize(args[0])
	if err != nil {
		return v.invalid("memory", err)
	}
	var timeout time.Duration
	if len(args) > 1 {
		if args[1] != "wait" || len(args) != 3 {
			return v.invalid("memory", errors.New("want memory SIZE [wait DURATION]"))
		}
		if timeout, err = parseDuration(args[2]); err != nil {
			return v.invalid("memory", err)
		}
	}
	return v.ResizeMemory(ctx, size, timeout)
}

func runSet(ctx context.Context, v *VM, args []string) error {
	text, err := settingLines(args)
	if err != nil {
		return v.invalid("set", err)
	}
	return v.SetConfig(ctx, text, false)
}

func runRestore(ctx context.Context, v *VM, args []string) error {
	text, err := settingLines(args[1:])
	if err != nil {
		return v.invalid("restore", err)
	}
	var clear []string // a key that is given replaces all that the snapshot has of it
	for line := range strings.Lines(text) {
		key, _, _ := strings.Cut(line, "=")
		clear = append(clear, key+"=")
	}
	return v.Restore(ctx, args[0], append(clear, text)...)
}

// settingLines makes lines of a config of words KEY=VALUE.
func settingLines(args []string) (string, error) {
	if len(args) > config.MaxLines {
		return "", fmt.Errorf("%d settings: want at most %d at a time", len(args), config.MaxLines)
	}
	var text strings.Builder
	for _, a := range args {
		key, value, ok := strings.Cut(a, "=")
		if !ok || strings.ContainsAny(a, "\n") {
			return "", fmt.Errorf("%.100q is not KEY=VALUE", a)
		}
		text.WriteString(key + "=")
		if value != "" {
			text.WriteString(rc.Quote(value))
		}
		text.WriteByte('\n')
	}
	return text.String(), nil
}

func runWait(ctx context.Context, v *VM, args []string) error {
	want := hypervisor.VMState(args[0])
	if !slices.Contains(inAny, want) {
		return v.invalid("wait", fmt.Errorf("%q is not a state: the states are created, running, paused and shutdown", args[0]))
	}
	within := ctx
	var limit time.Duration
	if len(args) == 2 {
		var err error
		if limit, err = parseDuration(args[1]); err != nil {
			return v.invalid("wait", err)
		}
		var cancel context.CancelFunc
		within, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	st, err := v.Watch(within, func(st Status) bool { return st.State == want })
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		err = byClient(ctx.Err())
	case within.Err() != nil:
		err = &endedError{fmt.Sprintf("%s is still %s after %v", v.name, st.State, limit), err}
	}
	return v.wrap("wait", err)
}

func parseDuration(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("%q is not a duration: want a number with ms, s, m or h (10s, 1m30s)", s)
	}
	return d, nil
}

// invalid is a control message whose arguments are wrong.
func (v *VM) invalid(verb string, err error) error {
	return v.wrap(verb, fmt.Errorf("%w: %w", hypervisor.ErrInvalid, err))
}
