package vhostuser

import (
	"math"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestSendCredit(t *testing.T) {
	for _, tt := range []struct {
		c    sendCredit
		want uint32
	}{
		{sendCredit{alloc: 100}, 100},
		{sendCredit{sent: 60, alloc: 100}, 40},
		{sendCredit{sent: 160, alloc: 100, freed: 60}, 0},
		{sendCredit{sent: 10, alloc: 100, freed: math.MaxUint32 - 9}, 80}, // run over
		{sendCredit{sent: 60, alloc: 50}, 0},                              // taken back
		{sendCredit{sent: 60, alloc: 100, freed: 61}, 0},                  // claims too much
		{sendCredit{sent: 60, alloc: math.MaxUint32, freed: 61}, 0},
		{sendCredit{alloc: math.MaxUint32}, math.MaxUint32},
	} {
		assert.Equal(t, tt.want, tt.c.room(), "%+v", tt.c)
	}
}

// FuzzRecvCredit plays the guest's side beside ours: the guest never has less
// than no room by its own reckoning, which old kernels take for 4 GiB, what it
// sends within its room is never refused, and when all is consumed it is told
// of room enough.
func FuzzRecvCredit(f *testing.F) {
	f.Add([]byte{0, 255, 1, 255, 4, 0, 2, 16, 0, 200, 1, 100})
	f.Add([]byte{3, 255, 0, 255, 1, 255, 4, 0, 2, 1, 4, 0, 1, 255, 4, 0})
	f.Fuzz(func(t *testing.T, moves []byte) {
		start := uint32(math.MaxUint32 - 5000) // soon to run over
		c := recvCredit{alloc: minStreamBuffer, got: start, freed: start}
		alloc, freed := c.tell()
		sent := start
		room := func() uint32 { return alloc - (sent - freed) }
		told := func() {
			alloc, freed = c.tell()
			require.LessOrEqual(t, room(), uint32(1<<20), "the edge moved back")
		}
		for ; len(moves) >= 2; moves = moves[2:] {
			n := uint32(moves[1]) << 8
			switch moves[0] % 5 {
			case 0:
				n = min(n, room())
				require.True(t, c.take(n))
				sent += n
			case 1:
				c.freed += min(n, c.got-c.freed)
			case 2:
				if to := minStreamBuffer + n; to < c.alloc {
					had := c.alloc
					require.Equal(t, had-c.shrink(to), c.alloc)
					require.GreaterOrEqual(t, c.alloc, to)
				}
			case 3:
				c.alloc = min(c.alloc+n, 1<<20)
			default:
				told()
			}
			require.LessOrEqual(t, c.got-c.freed, c.alloc, "more than may be kept")
			require.Equal(t, room(), c.known())
		}
		require.False(t, c.take(c.known()+1))
		c.freed = c.got
		if c.due() {
			told()
		}
		require.GreaterOrEqual(t, room(), c.alloc/2)
	})
}
