package fs

import (
	"context"
	"io"

	"vmfs/backends/hypervisor"
	"vmfs/machine"
	"vmfs/machine/console"
	"vmfs/machine/events"
)

// eventStream is a fid on an events file: a line for each event since the open.
type eventStream struct {
	sub *events.Subscription
	// only, if not nil, tells which records the reader may see.
	only func(events.Event) bool
	rest rest
}

// read waits for a record and delivers it with those that are there besides,
// whole lines as far as they fit.
func (e *eventStream) read(ctx context.Context, p []byte) (int, error) {
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
		if e.only != nil && !e.only(r) {
			continue
		}
		e.rest = append(append(e.rest[:0:0], r.String()...), '\n')
		if n > 0 && len(e.rest) > len(p)-n {
			break
		}
		n += e.rest.take(p[n:])
	}
	return n, nil
}

func (e *eventStream) write(context.Context, []byte) (int, error) { return 0, errAccess }
func (e *eventStream) close()                                     { e.sub.Close() }

// waiter is a fid on a wait file.
type waiter struct {
	vm   *machine.VM
	from hypervisor.VMState
	rest rest
	done bool
}

func openWait(n *node) (stream, error) { return &waiter{vm: n.vm, from: n.vm.State()}, nil }

// read waits until the state is another, yields it, and then the end.
func (w *waiter) read(ctx context.Context, p []byte) (int, error) {
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

func (w *waiter) write(context.Context, []byte) (int, error) { return 0, errAccess }
func (w *waiter) close()                                     {}

// consoleStream is a fid on a console file.
type consoleStream struct {
	vm *machine.VM
	r  *console.Reader
}

func openConsole(n *node) (stream, error) {
	return &consoleStream{vm: n.vm, r: n.vm.OpenConsole()}, nil
}

func (c *consoleStream) read(ctx context.Context, p []byte) (int, error) { return c.r.Read(ctx, p) }

func (c *consoleStream) write(ctx context.Context, p []byte) (int, error) {
	n, err := c.vm.WriteConsole(ctx, p)
	if err != nil {
		c.vm.RecordError("console", err)
	}
	return n, err
}

func (c *consoleStream) close() { c.r.Close() }
