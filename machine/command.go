package machine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"vmfs/backends/hypervisor"
	"vmfs/internal/printable"
	"vmfs/machine/events"
	"vmfs/machine/rc"
)

// A command is one verb under way on a VM. There is one at a time.
type command struct {
	verb   string
	cancel context.CancelCauseFunc
	done   chan struct{} // closed when it is over
}

// run does a command: it checks that the state allows it and that no other is
// under way, bounds it in time, and keeps its failure. f's context ends with ctx,
// at the timeout, by Cancel, by Kill and when the Host is closed.
func (v *VM) run(ctx context.Context, verb string, timeout time.Duration, f func(context.Context) error) error {
	if !v.host.enter() {
		return v.wrap(verb, ErrClosed)
	}
	defer v.host.leave()
	cctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(v.host.ctx, func() { cancel(ErrClosed) })
	defer stop()
	tctx, cancelTimeout := context.WithTimeout(cctx, timeout)
	defer cancelTimeout()

	cmd := &command{verb: verb, cancel: cancel, done: make(chan struct{})}
	vb := verbNamed(verb)
	err := v.able(vb)
	if err == nil {
		err = v.begin(cmd, vb)
	}
	if err != nil {
		err = v.wrap(verb, err)
		v.RecordError(verb, err)
		return err
	}
	if err = f(tctx); err != nil {
		switch cause := context.Cause(tctx); {
		case errors.Is(cause, errCancelled), errors.Is(cause, errKilled), errors.Is(cause, ErrClosed):
			err = cause
		case ctx.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)):
			err = byClient(ctx.Err())
		case ctx.Err() == nil && tctx.Err() != nil && errors.Is(err, context.DeadlineExceeded):
			err = fmt.Errorf("%w (gave up after %v: the VMM may be stopped, hung or very slow)", err, timeout)
		}
	}
	err = v.wrap(verb, err)
	v.RecordError(verb, err)
	v.finish(cmd)
	return err
}

// able refuses what the VM is not capable of.
func (v *VM) able(vb *Verb) error {
	if vb.Needs == "" {
		return nil
	}
	caps := v.Capabilities()
	if vb.reconfigures {
		caps = v.host.backends.capabilities(v.Status().Backend, hypervisor.VMConfig{})
	}
	if !caps.Has(vb.Needs) {
		return fmt.Errorf("%s has no capability %q: %w", v.name, vb.Needs, hypervisor.ErrNotSupported)
	}
	return nil
}

func (v *VM) begin(cmd *command, vb *Verb) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case v.deleted:
		return ErrNotFound
	case v.command != nil:
		return &BusyError{VM: v.name, Verb: cmd.verb, Busy: v.command.verb}
	case !slices.Contains(vb.In, v.status.State):
		return &StateError{VM: v.name, Verb: cmd.verb, State: v.status.State}
	}
	v.command = cmd
	v.status.Busy, v.status.BusySince = cmd.verb, time.Now()
	v.broadcast()
	return nil
}

func (v *VM) finish(cmd *command) {
	v.update(func() {
		v.command = nil
		v.status.Busy, v.status.BusySince, v.status.Progress = "", time.Time{}, Progress{}
	})
	close(cmd.done)
}

// Cancel ends the command under way, which then fails with context.Canceled. It
// returns when that is over. With none under way it does nothing.
func (v *VM) Cancel(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, v.host.opts.Timeouts.Verb)
	defer cancel()
	return v.wrap("cancel", v.interrupt(ctx, errCancelled))
}

// interrupt ends the command under way, if there is one, and waits until it has
// ended.
func (v *VM) interrupt(ctx context.Context, why error) error {
	v.mu.Lock()
	cmd := v.command
	v.mu.Unlock()
	if cmd == nil {
		return nil
	}
	cmd.cancel(why)
	select {
	case <-cmd.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("the command %s has not ended yet: %w", cmd.verb, ctx.Err())
	}
}

// failure is the last command that failed, until one succeeds.
type failure struct {
	text string
	err  error
}

// The longest verb and the longest error that are kept: both quote what a client wrote.
const (
	maxVerb  = 200
	maxError = 4096
)

func (f *failure) set(verb string, err error) (text string) {
	f.err = err
	text = printable.Line(rc.Brief(err.Error(), maxError))
	f.text = time.Now().UTC().Format(events.TimeFormat) + " " + verb + ": " + text
	return text
}

// LastError returns the time, verb and full text of the last command that failed,
// "" where the last one did not.
func (v *VM) LastError() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.failure.text
}

// RecordError keeps how a command ended for LastError and, if it failed, for the
// events and the log. The commands of this package do so themselves; it is for
// those that did not come to one. To record an error again that is the last one,
// or wraps it, is no second failure.
func (v *VM) RecordError(verb string, err error) {
	v.mu.Lock()
	if err == nil {
		v.failure = failure{}
		v.mu.Unlock()
		return
	}
	if v.failure.err != nil && errors.Is(err, v.failure.err) {
		v.mu.Unlock()
		return
	}
	verb = printable.Line(rc.Brief(verb, maxVerb))
	text := v.failure.set(verb, err)
	v.mu.Unlock()
	v.host.log.Warn("command failed", "vm", v.name, "verb", verb, "err", text)
	v.emit(events.Event{Kind: events.KindFailed, Detail: []hypervisor.Detail{{Key: "verb", Value: verb}, {Key: "error", Value: text}}})
}
