package framework

import (
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/vz/shim"
)

// guest is what the framework would have of a guest's connections.
type guest struct {
	mu     sync.Mutex // guards opened
	opened map[uint32]int
	dials  chan shim.Conn
}

func (g *guest) open(port uint32) (func() (shim.Conn, error), error) {
	if port == 13 {
		return nil, errors.New("not this one")
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.opened[port]++
	return func() (shim.Conn, error) {
		c := <-g.dials
		if c == nil {
			return nil, errors.New("too many open files")
		}
		return c, nil
	}, nil
}

// conn is one end of a pipe.
type conn struct{ net.Conn }

func (conn) CloseWrite() error { return nil }

// dial connects as the guest does, and returns its end.
func (g *guest) dial(t *testing.T) net.Conn {
	ours, theirs := net.Pipe()
	t.Cleanup(func() { ours.Close() })
	require.NoError(t, ours.SetDeadline(time.Now().Add(time.Minute)))
	g.dials <- conn{theirs}
	return ours
}

func hungUp(t *testing.T, c net.Conn) {
	t.Helper()
	_, err := c.Read(make([]byte, 1))
	assert.ErrorIs(t, err, io.EOF)
}

func TestPorts(t *testing.T) {
	g := &guest{opened: map[uint32]int{}, dials: make(chan shim.Conn)}
	p := &ports{open: g.open}
	_, err := p.listen(13)
	assert.ErrorContains(t, err, "not this one")

	a, err := p.listen(7)
	require.NoError(t, err)
	_, err = p.listen(7)
	assert.ErrorContains(t, err, "address already in use")

	// A connection that fails is not the end of the port.
	g.dials <- nil
	go func() {
		c, err := a.Accept()
		if assert.NoError(t, err) {
			_, _ = io.WriteString(c, "hello")
			_ = c.Close()
		}
	}()
	b, err := io.ReadAll(g.dial(t))
	require.NoError(t, err)
	assert.Equal(t, "hello", string(b))

	// One that nobody takes ends with the listener; later ones at once.
	waiting := g.dial(t)
	require.NoError(t, a.Close())
	require.NoError(t, a.Close(), "twice")
	hungUp(t, waiting)
	_, err = a.Accept()
	assert.ErrorIs(t, err, net.ErrClosed)
	hungUp(t, g.dial(t))

	// The framework is not asked again, and the old listener has no part in the new one.
	next, err := p.listen(7)
	require.NoError(t, err)
	require.NoError(t, a.Close())
	got := make(chan error, 1)
	go func() {
		_, err := next.Accept()
		got <- err
	}()
	g.dial(t)
	require.NoError(t, <-got)
	go func() {
		_, err := next.Accept()
		got <- err
	}()
	require.NoError(t, next.Close())
	assert.ErrorIs(t, <-got, net.ErrClosed)
	assert.Equal(t, map[uint32]int{7: 1}, g.opened)
}
