package qmp

import (
	"context"
	"encoding/json"
	"fmt"

	goqemu "github.com/digitalocean/go-qemu/qmp"
)

var _ goqemu.Monitor = (*Monitor)(nil)

// A Monitor is a connection bound to a context, in the shape that go-qemu
// knows: raw.NewMonitor(c.Monitor(ctx)).Stop() obeys ctx.
type Monitor struct {
	conn *Conn
	ctx  context.Context
}

// Monitor returns the connection as a go-qemu Monitor whose calls obey ctx.
func (c *Conn) Monitor(ctx context.Context) *Monitor { return &Monitor{conn: c, ctx: ctx} }

// Connect starts the connection and waits until it takes commands.
func (m *Monitor) Connect() error {
	m.conn.Start()
	return m.conn.Ready(m.ctx)
}

// Disconnect closes the connection.
func (m *Monitor) Disconnect() error { return m.conn.Close() }

// Run runs the command that the JSON object in line is, as go-qemu's Command
// encodes it, and returns QEMU's reply as an object with the member "return".
// An id in line is ignored.
func (m *Monitor) Run(line []byte) ([]byte, error) {
	var cmd struct {
		Execute   string          `json:"execute"`
		Arguments json.RawMessage `json:"arguments"`
	}
	if err := json.Unmarshal(line, &cmd); err != nil {
		return nil, fmt.Errorf("qmp: command %q: %w", clip(line), err)
	}
	var args any
	if len(cmd.Arguments) > 0 {
		args = cmd.Arguments
	}
	var ret json.RawMessage
	if err := m.conn.Execute(m.ctx, cmd.Execute, args, &ret); err != nil {
		return nil, err
	}
	return json.Marshal(map[string]json.RawMessage{"return": ret})
}

// Events returns the connection's events until ctx or the connection ends, and
// then closes the channel. A receiver who stops receiving must end ctx.
func (m *Monitor) Events(ctx context.Context) (<-chan goqemu.Event, error) {
	if err := m.conn.Err(); err != nil {
		return nil, err
	}
	sub := m.conn.Subscribe()
	context.AfterFunc(ctx, func() {
		sub.Close()
		sub.queue.Close(ErrClosed)
	})
	return sub.queue.Chan(), nil
}
