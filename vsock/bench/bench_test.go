package bench

import (
	"bytes"
	"io"
	"net"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestLoad measures the services by TCP.
func TestLoad(t *testing.T) {
	w := make(TCP)
	require.NoError(t, Serve(func(port int) (net.Listener, error) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err == nil {
			t.Cleanup(func() { ln.Close() })
			w[port] = ln.Addr().String()
		}
		return ln, err
	}))
	for _, streams := range []int{1, 8} {
		for _, what := range []string{ToGuest, FromGuest} {
			f, err := Transfer(w, what, streams, 8<<20)
			require.NoError(t, err)
			assert.Zero(t, f.Lost)
			assert.Positive(t, f.MiBs)
			assert.GreaterOrEqual(t, f.Fair, 1.0)
		}
		f, err := RoundTrips(w, streams, 100)
		require.NoError(t, err)
		assert.Positive(t, f.P50)
		f, err = Connects(w, streams, 100)
		require.NoError(t, err)
		assert.Positive(t, f.P50)
	}
}

// broken loses one byte of what is read.
type broken struct {
	io.Reader
	io.Writer
}

func (b *broken) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if n > 1000 {
		n = copy(p[1000:n], p[1001:n]) + 1000
	}
	return n, err
}

// TestLost shows that a byte that is missing is told.
func TestLost(t *testing.T) {
	var whole bytes.Buffer
	require.NoError(t, send(&whole, 100000))
	all := whole.Bytes()
	got, err := Get(&broken{bytes.NewReader(all), io.Discard}, 0, 100000, 100000)
	require.NoError(t, err)
	assert.Less(t, got, int64(100000))
	got, err = Get(&broken{bytes.NewReader(all[:900]), io.Discard}, 0, 100000, 100000)
	assert.ErrorIs(t, err, io.EOF)
	assert.EqualValues(t, 900, got)
	got, err = Get(struct {
		io.Reader
		io.Writer
	}{bytes.NewReader(all[70000:]), io.Discard}, 70000, 30000, 0)
	require.NoError(t, err)
	assert.EqualValues(t, 30000, got)
}
