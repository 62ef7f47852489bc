//go:build linux

package vhostuser

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/vsock"
	"vmfs/vsock/vhostuser/internal/testguest/pattern"
)

// TestSoak is the long test: 1 GiB each way with checksums, 10,000 connects, a
// reader that stops for a minute, a pause of ten seconds, and 512 streams whose
// readers all stand still.
func TestSoak(t *testing.T) {
	if os.Getenv("VMFS_SOAK") == "" {
		t.Skip("takes minutes: VMFS_SOAK=1 go test -run Soak -timeout 30m ./vsock/vhostuser")
	}
	for _, series := range []string{"6.1", "6.12"} {
		t.Run(series, func(t *testing.T) {
			r := newRig(t, series)
			far := time.Now().Add(20 * time.Minute)
			dial := func(port int) vsock.Conn {
				c := r.dial(port)
				require.NoError(t, c.SetDeadline(far))
				return c
			}
			still := dial(portSource) // stops reading for a minute
			_, err := fmt.Fprintf(still, "7 %d\n", 8<<20)
			require.NoError(t, err)
			since := time.Now()

			const n = 1 << 30
			c := dial(portSum)
			paused := make(chan struct{})
			go func() {
				defer close(paused)
				time.Sleep(time.Second)
				r.vm.QMP(`{"execute":"stop"}`)
				time.Sleep(10 * time.Second)
				r.vm.QMP(`{"execute":"cont"}`)
			}()
			_, err = io.CopyN(c, pattern.New(1), n)
			require.NoError(t, err)
			<-paused
			require.NoError(t, c.CloseWrite())
			b, err := io.ReadAll(c)
			require.NoError(t, err)
			assert.Equal(t, patternSum(1, n), string(b))
			c = dial(portSource)
			_, err = fmt.Fprintf(c, "2 %d\n", n)
			require.NoError(t, err)
			h := sha256.New()
			_, err = io.Copy(h, c)
			require.NoError(t, err)
			assert.Equal(t, patternSum(2, n), hex.EncodeToString(h.Sum(nil)))
			_, most := r.rss()
			t.Logf("peak resident: %d KiB", most)
			assert.Less(t, most, 16<<10)

			time.Sleep(time.Until(since.Add(time.Minute)))
			h.Reset()
			_, err = io.Copy(h, still)
			require.NoError(t, err)
			assert.Equal(t, patternSum(7, 8<<20), hex.EncodeToString(h.Sum(nil)))

			start := time.Now()
			for range 10000 {
				c, err := r.hybrid.DialVsock(t.Context(), portHangUp)
				require.NoError(t, err)
				_, err = c.Read(make([]byte, 1))
				require.ErrorIs(t, err, io.EOF)
				require.NoError(t, c.Close())
			}
			t.Logf("10,000 connects: %v", time.Since(start))

			var conns []vsock.Conn
			for range 512 {
				conns = append(conns, dial(portZeros))
			}
			for last := uint64(0); ; time.Sleep(time.Second) {
				st := r.status()
				if st.ToHost == last {
					t.Logf("512 streams stand still with %d bytes kept", st.Buffered)
					break
				}
				last = st.ToHost
			}
			now, _ := r.rss()
			t.Logf("resident with 512 streams, all full: %d KiB", now)
			assert.Less(t, now, 48<<10)
			var wg sync.WaitGroup
			for _, c := range conns {
				wg.Go(func() {
					_, err := io.CopyN(io.Discard, c, 1<<20)
					assert.NoError(t, err)
					_ = c.Close()
				})
			}
			wg.Wait()
			r.settled()
			st := r.status()
			time.Sleep(time.Second)
			assert.Less(t, r.status().Rounds-st.Rounds, uint64(8), "idle")
			now, _ = r.rss()
			t.Logf("resident afterwards: %d KiB", now)
		})
	}
}
