package agent

import (
	"bytes"
	"io"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// pair is two ends of a stream.
func pair(t *testing.T) (near, far *net.UnixConn) {
	t.Helper()
	ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	require.NoError(t, err)
	defer ln.Close()
	c, err := net.Dial("unix", ln.Addr().String())
	require.NoError(t, err)
	f, err := ln.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { c.Close(); f.Close() })
	return c.(*net.UnixConn), f.(*net.UnixConn)
}

// TestJoin ends the two directions in either order, and at once.
func TestJoin(t *testing.T) {
	type end struct {
		err error
		out string
	}
	start := func(c stream, in io.Reader) <-chan end {
		over := make(chan end, 1)
		go func() {
			var out bytes.Buffer
			err := join(c, in, &out)
			over <- end{err, out.String()}
		}()
		return over
	}
	await := func(over <-chan end) end {
		t.Helper()
		select {
		case e := <-over:
			return e
		case <-time.After(30 * time.Second):
			require.Fail(t, "it does not end")
			return end{}
		}
	}

	t.Run("the other side first", func(t *testing.T) {
		near, far := pair(t)
		in, typed := io.Pipe()
		over := start(near, in)
		_, err := io.WriteString(far, "hello")
		require.NoError(t, err)
		require.NoError(t, far.CloseWrite())
		time.Sleep(2 * askGone) // it is asked, and still there
		_, err = io.WriteString(typed, "late")
		require.NoError(t, err)
		require.NoError(t, typed.Close())
		text, err := io.ReadAll(far)
		require.NoError(t, err)
		assert.Equal(t, "late", string(text))
		assert.Equal(t, end{nil, "hello"}, await(over))
	})
	t.Run("ours first", func(t *testing.T) {
		near, far := pair(t)
		over := start(near, bytes.NewReader([]byte("all")))
		text, err := io.ReadAll(far)
		require.NoError(t, err)
		assert.Equal(t, "all", string(text))
		_, err = io.WriteString(far, "answer")
		require.NoError(t, err)
		require.NoError(t, far.Close())
		assert.Equal(t, end{nil, "answer"}, await(over))
	})
	t.Run("the other side is gone, and nothing is typed", func(t *testing.T) {
		near, far := pair(t)
		in, typed := io.Pipe()
		defer typed.Close()
		over := start(near, in)
		_, err := io.WriteString(far, "bye")
		require.NoError(t, err)
		require.NoError(t, far.Close())
		assert.Equal(t, end{nil, "bye"}, await(over))
	})
	t.Run("the other side takes no more", func(t *testing.T) {
		near, far := pair(t)
		over := start(near, endless{})
		require.NoError(t, far.CloseWrite())
		_, err := io.ReadFull(far, make([]byte, 1000))
		require.NoError(t, err)
		require.NoError(t, far.Close())
		assert.Error(t, await(over).err)
	})
}

// endless is an input without end.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }
