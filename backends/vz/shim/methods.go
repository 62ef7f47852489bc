package shim

import (
	"context"
	"encoding/json"
	"os"

	"vmfs/backends/vz/shimapi"
)

// A method is what one method of the protocol does. It returns what is answered, nil for
// nothing to say.
type method func(ctx context.Context, c *client, params json.RawMessage) (any, error)

// methods has every method but cancel.
var methods = map[shimapi.Method]method{
	shimapi.MethodHello: func(_ context.Context, c *client, _ json.RawMessage) (any, error) { // see admit
		vm := c.shim.VM
		return shimapi.Welcome{Version: shimapi.Version, Name: vm.Name, UUID: vm.UUID, PID: os.Getpid()}, nil
	},
	shimapi.MethodReport:   plain(func(ctx context.Context, s *Shim) (any, error) { return s.report(ctx) }),
	shimapi.MethodInfo:     plain(func(_ context.Context, s *Shim) (any, error) { return s.info(), nil }),
	shimapi.MethodStart:    order((*Shim).start),
	shimapi.MethodPause:    order((*Shim).pause),
	shimapi.MethodResume:   order((*Shim).resume),
	shimapi.MethodPowerOff: order((*Shim).powerOff),
	shimapi.MethodRestore:  file((*Shim).restore),
	shimapi.MethodSave:     file((*Shim).save),
	shimapi.MethodMemory: with(func(ctx context.Context, s *Shim, p shimapi.Memory) error {
		return s.memory(ctx, p.Bytes)
	}),
}

// What is done after it was answered, since the shim ends by it.
var endings = map[shimapi.Method]func(s *Shim){
	shimapi.MethodStop: (*Shim).stop,
	shimapi.MethodQuit: func(s *Shim) { s.end() },
}

// handle does what a request asks for, and answers.
func (c *client) handle(ctx context.Context, req shimapi.Request) {
	result, err := c.ask(ctx, req)
	m := shimapi.Message{ID: req.ID, Error: answer(err), Result: empty}
	if err == nil && result != nil {
		b, merr := json.Marshal(result)
		m.Result, m.Error = b, answer(merr)
	}
	c.mu.Lock()
	delete(c.running, req.ID)
	c.mu.Unlock()
	c.send(m)
	if err != nil {
		return
	}
	if end := endings[req.Method]; end != nil {
		end(c.shim)
	}
	if req.Method == shimapi.MethodEvents {
		c.shim.ring.each(c.shim.ctx, result.(shimapi.After).Seq, func(e shimapi.Event) error {
			return c.tell(e)
		})
	}
}

func (c *client) ask(ctx context.Context, req shimapi.Request) (any, error) {
	switch req.Method {
	case shimapi.MethodKill:
		c.shim.Exit(killed)
		return nil, nil
	case shimapi.MethodStop, shimapi.MethodQuit:
		if err := shimapi.Strict(req.Params, new(struct{})); err != nil {
			return nil, coded(shimapi.CodeUnknown, "%s: %v", req.Method, err)
		}
		phase := c.shim.phaseNow()
		if req.Method == shimapi.MethodQuit && (phase == shimapi.PhaseRunning || phase == shimapi.PhasePaused) {
			return nil, coded(shimapi.CodeBusy, "the VM is %s: stop it", phase)
		}
		return nil, nil
	case shimapi.MethodEvents:
		return c.subscribe(req)
	}
	m, ok := methods[req.Method]
	if !ok {
		return nil, coded(shimapi.CodeUnknown, "this vz-shim knows no %q", req.Method)
	}
	return m(ctx, c, req.Params)
}

// killed is the exit status of a shim that was killed by a request.
const killed = 137

// subscribe says where the events of a connection begin.
func (c *client) subscribe(req shimapi.Request) (any, error) {
	var p shimapi.After
	if err := shimapi.Strict(req.Params, &p); err != nil {
		return nil, coded(shimapi.CodeUnknown, "%s: %v", req.Method, err)
	}
	if last := c.shim.ring.last(); p.Seq > last {
		return nil, coded(shimapi.CodeInvalid, "there is no event %d, only %d: they are of another VM", p.Seq, last)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.events {
		return nil, coded(shimapi.CodeBusy, "this connection has the events already")
	}
	c.events = true
	return p, nil
}

// tell writes an event.
func (c *client) tell(e shimapi.Event) error {
	line, err := shimapi.Line(shimapi.Message{Event: &e})
	if err != nil {
		return err
	}
	c.writing.Lock()
	defer c.writing.Unlock()
	_, err = c.conn.Write(line)
	return err
}

// plain is a method that has an answer and no parameters.
func plain(f func(ctx context.Context, s *Shim) (any, error)) method {
	return func(ctx context.Context, c *client, b json.RawMessage) (any, error) {
		if err := shimapi.Strict(b, new(struct{})); err != nil {
			return nil, coded(shimapi.CodeUnknown, "%v", err)
		}
		return f(ctx, c.shim)
	}
}

// order is a method without parameters and answer.
func order(f func(s *Shim, ctx context.Context) error) method {
	return with(func(ctx context.Context, s *Shim, _ struct{}) error { return f(s, ctx) })
}

// file is a method with a path.
func file(f func(s *Shim, ctx context.Context, path string) error) method {
	return with(func(ctx context.Context, s *Shim, p shimapi.File) error {
		if len(p.Path) == 0 || p.Path[0] != '/' {
			return coded(shimapi.CodeInvalid, "%q is not an absolute path", p.Path)
		}
		return f(s, ctx, p.Path)
	})
}

// with is a method with parameters and without an answer.
func with[P any](f func(ctx context.Context, s *Shim, p P) error) method {
	return func(ctx context.Context, c *client, b json.RawMessage) (any, error) {
		var p P
		if err := shimapi.Strict(b, &p); err != nil {
			return nil, coded(shimapi.CodeUnknown, "%v", err)
		}
		return nil, f(ctx, c.shim, p)
	}
}
