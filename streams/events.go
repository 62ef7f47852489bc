package streams

import (
	"context"
	"errors"
	"io"

	"vmfs/backends/hypervisor"
	"vmfs/machine"
	"vmfs/machine/events"
)

var errReadOnly = errors.New("this file can only be read")

// eventLines is a line for each event of a subscription.
type eventLines struct {
	readOnly
	sub  *events.Subscription
	rest rest
}

// Events reads the events that the audience may see from now on, a line each.
func Events(feed *events.Feed, a events.Audience) Stream {
	return &eventLines{sub: feed.SubscribeAs(a)}
}

// Read waits for an event and delivers it with those that are there besides,
// whole lines as far as they fit.
func (e *eventLines) Read(ctx context.Context, p []byte) (int, error) {
	if len(e.rest) > 0 {
		return e.rest.take(p), nil
	}
	n := 0
	for n < len(p) {
		var r events.Event
		if n == 0 {
			var err error
			if r, err = e.sub.Next(ctx); err != nil {
				return 0, err
			}
		} else {
			var ok bool
			if r, ok = e.sub.TryNext(); !ok {
				break
			}
		}
		e.rest = append(append(e.rest[:0:0], r.String()...), '\n')
		if n > 0 && len(e.rest) > len(p)-n {
			break
		}
		n += e.rest.take(p[n:])
	}
	return n, nil
}

func (e *eventLines) Close() { e.sub.Close() }

// nextState yields one state.
type nextState struct {
	readOnly
	vm   *machine.VM
	from hypervisor.VMState
	rest rest
	done bool
}

// NextState reads as the first state of the VM that is not the one it has now,
// once there is one, and then ends.
func NextState(vm *machine.VM) Stream { return &nextState{vm: vm, from: vm.State()} }

func (w *nextState) Read(ctx context.Context, p []byte) (int, error) {
	if !w.done {
		st, err := w.vm.Watch(ctx, func(st machine.Status) bool { return st.State != w.from })
		if err != nil {
			return 0, err
		}
		w.rest, w.done = append([]byte(st.State), '\n'), true
	}
	if len(w.rest) == 0 {
		return 0, io.EOF
	}
	return w.rest.take(p), nil
}

func (w *nextState) Close() {}
