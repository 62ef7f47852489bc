package vsock

import (
	"math"
	"strconv"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestPorts(t *testing.T) {
	for _, tt := range []struct {
		in string
		ok bool
	}{
		{"1", true}, {"1024", true}, {"4294967294", true},
		{"0", false}, {"4294967295", false}, {"4294967296", false}, {"-1", false}, {"+1", false},
		{"01", false}, {" 1", false}, {"1 ", false}, {"", false}, {"ssh", false}, {"0x10", false},
		{"1e3", false}, {"99999999999999999999", false}, {"1_0", false},
	} {
		n, err := ParsePort(tt.in)
		if !tt.ok {
			assert.ErrorIs(t, err, ErrPort, "%q", tt.in)
			continue
		}
		require.NoError(t, err, "%q", tt.in)
		assert.Equal(t, tt.in, strconv.Itoa(n))
		assert.NoError(t, CheckPort(n))
	}
	for _, n := range []int{0, -1, math.MinInt, MaxPort + 1, math.MaxInt} {
		assert.ErrorIs(t, CheckPort(n), ErrPort, "%d", n)
	}
}

func FuzzParsePort(f *testing.F) {
	for _, s := range []string{"1", "0", "4294967295", "+7", "007", "ssh"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := ParsePort(s)
		if err != nil {
			require.ErrorIs(t, err, ErrPort)
			return
		}
		require.NoError(t, CheckPort(n))
		require.Equal(t, s, strconv.Itoa(n))
	})
}

func TestAddr(t *testing.T) {
	assert.Equal(t, "42:1024", Addr{CID: 42, Port: 1024}.String())
	assert.Equal(t, "/run/x.sock:7", Addr{Socket: "/run/x.sock", Port: 7}.String())
	assert.Equal(t, "vsock", Addr{}.Network())
}
