package qmp

import (
	"bufio"
	"bytes"
	"net"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestReadLineLimit(t *testing.T) {
	r := bufio.NewReaderSize(strings.NewReader("short\r\n\n"+strings.Repeat("x", 100)), 16)
	for _, want := range []string{"short", ""} {
		line, err := readLine(r, 50)
		require.NoError(t, err)
		assert.Equal(t, want, string(line))
	}
	_, err := readLine(r, 50)
	require.ErrorIs(t, err, ErrProtocol)
}

// FuzzRead feeds a connection what it likes: it must end without a panic, a
// block or a goroutine left.
func FuzzRead(f *testing.F) {
	f.Add([]byte("{\"QMP\": {}}\n{\"return\": {}, \"id\": \"1\"}\n{\"event\": \"STOP\"}\n"))
	f.Add([]byte("{\"QMP\": null}\n{\"id\": {}}\n{}\n"))
	f.Add([]byte("null\n7\n\"\"\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		ours, theirs := net.Pipe()
		c := NewConn(ours)
		sub := c.Subscribe()
		c.Start()
		go func() { // drains what the connection sends
			var sink bytes.Buffer
			_, _ = sink.ReadFrom(theirs)
		}()
		_, _ = theirs.Write(in)
		_ = theirs.Close()
		<-c.Done()
		require.NoError(t, c.Close())
		for {
			if _, err := sub.Next(t.Context()); err != nil {
				return
			}
		}
	})
}
