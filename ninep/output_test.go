package ninep

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestOutputBacklog has replies of all sizes pile up behind a client that reads
// late: they come in the order in which they were added, and nothing is kept of
// them once they are written.
func TestOutputBacklog(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	defer near.Close()
	share := &userShare{all: new(usage), limits: new(Limits)}
	o := output{share: share}
	o.init(near, patience, func(err error) { t.Errorf("failed: %v", err) })
	rnd := rand.New(rand.NewPCG(1, 1))
	for round := range 3 {
		var want []byte
		var wg sync.WaitGroup
		for i := range 500 {
			size := 1 + rnd.IntN(64)
			if i%3 == 0 {
				size = rnd.IntN(200 << 10)
			}
			b := getBuf(size)
			b.b = append(b.b, bytes.Repeat([]byte{byte(i)}, size)...)
			want = append(want, b.b...)
			if o.add(b) {
				require.Zero(t, i, "somebody writes already, in round %d", round)
				wg.Go(func() {
					if round > 0 {
						runtime.Gosched()
						b = o.gather(b)
					}
					o.write(b)
				})
			}
		}
		got := make([]byte, len(want))
		require.NoError(t, far.SetReadDeadline(time.Now().Add(patience)))
		_, err := io.ReadFull(far, got)
		require.NoError(t, err)
		assert.True(t, bytes.Equal(want, got), "what came is not what was added")
		o.flush()
		wg.Wait()
		assert.Empty(t, o.pending)
		assert.Zero(t, o.waiting)
		assert.Zero(t, share.held.Load())
	}
}
