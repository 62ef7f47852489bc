//go:build linux

package vhostuser

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"vmfs/vsock"
)

// cpu returns the processor time the device has used.
func (r *rig) cpu() time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", r.dev.Process.Pid))
	require.NoError(r.t, err)
	_, rest, _ := strings.Cut(string(b), ") ")
	var ticks, user, sys int64
	f := strings.Fields(rest)
	_, err = fmt.Sscan(f[11]+" "+f[12], &user, &sys)
	require.NoError(r.t, err)
	ticks = user + sys
	return time.Duration(ticks) * time.Second / 100
}

// source is an endless stream of zeros that costs nothing to make.
type source0 struct{}

func (source0) Read(p []byte) (int, error) { return len(p), nil }

// BenchmarkGuest measures the device with real guests: run it with
// -bench Guest -benchtime 1x. The guest is emulated, so what it measures is
// mostly the guest: the device's own share is the metric device-cpu-%.
func BenchmarkGuest(b *testing.B) {
	for _, series := range []string{"6.1", "6.12"} {
		r := newRig(b, series)
		run := func(name string, f func(b *testing.B)) {
			b.Run(series+"/"+name, func(b *testing.B) {
				r.t = b
				start, cpu := time.Now(), r.cpu()
				f(b)
				b.ReportMetric(100*float64(r.cpu()-cpu)/float64(time.Since(start)), "device-cpu-%")
				_, most := r.rss()
				b.ReportMetric(float64(most)/1024, "peak-MiB")
			})
		}
		const n = 512 << 20
		run("to-guest", func(b *testing.B) {
			b.SetBytes(n)
			for b.Loop() {
				c := r.dial(portDiscard)
				_, err := io.CopyN(c, source0{}, n)
				require.NoError(b, err)
				require.NoError(b, c.CloseWrite())
				_, err = io.Copy(io.Discard, c)
				require.NoError(b, err)
			}
		})
		run("to-host", func(b *testing.B) {
			b.SetBytes(n)
			for b.Loop() {
				c := r.dial(portZeros)
				m, err := io.CopyN(io.Discard, c, n)
				require.NoError(b, err)
				require.EqualValues(b, n, m)
				_ = c.Close()
			}
		})
		run("round-trip", func(b *testing.B) {
			c := r.dial(portEcho)
			var times []time.Duration
			var buf [1]byte
			for b.Loop() {
				for range 5000 {
					start := time.Now()
					_, err := c.Write(buf[:])
					require.NoError(b, err)
					_, err = io.ReadFull(c, buf[:])
					require.NoError(b, err)
					times = append(times, time.Since(start))
				}
			}
			percentiles(b, times)
		})
		run("connect", func(b *testing.B) {
			var times []time.Duration
			for b.Loop() {
				for range 2000 {
					start := time.Now()
					c, err := r.hybrid.DialVsock(context.Background(), portHangUp)
					require.NoError(b, err)
					times = append(times, time.Since(start))
					_, _ = io.Copy(io.Discard, c)
					_ = c.Close()
				}
			}
			percentiles(b, times)
		})
		for _, streams := range []int{64, 512} {
			run(fmt.Sprintf("streams-%d", streams), func(b *testing.B) {
				b.SetBytes(n)
				for b.Loop() {
					r.share(b, streams, n)
				}
			})
		}
	}
}

// share moves total bytes over streams at once, and reports how unequal they
// were half the way.
func (r *rig) share(b *testing.B, streams int, total int64) {
	var wg sync.WaitGroup
	conns := make([]vsock.Conn, streams)
	for i := range conns {
		conns[i] = r.dial(portDiscard)
	}
	ends := make([]time.Duration, streams)
	start := time.Now()
	for i, c := range conns {
		wg.Go(func() {
			_, err := io.CopyN(c, source0{}, total/int64(streams))
			if err == nil {
				err = c.CloseWrite()
			}
			if err == nil {
				_, err = io.Copy(io.Discard, c)
			}
			if err != nil {
				b.Error(err)
			}
			ends[i] = time.Since(start)
		})
	}
	wg.Wait()
	for _, c := range conns {
		_ = c.Close()
	}
	b.ReportMetric(float64(slices.Max(ends))/float64(slices.Min(ends)), "slowest/fastest")
}

func percentiles(b *testing.B, times []time.Duration) {
	slices.Sort(times)
	for _, p := range []int{50, 99} {
		b.ReportMetric(float64(times[len(times)*p/100].Microseconds()), fmt.Sprintf("p%d-µs", p))
	}
}

// BenchmarkDevice measures the device without a guest's cost: the fake driver
// takes no notice of the bytes.
func BenchmarkDevice(b *testing.B) {
	for name, style := range map[string]rxStyle{"6.1": linux61, "6.12": linux612} {
		b.Run("to-guest/"+name, func(b *testing.B) {
			v := newFakeVM(b, nil)
			v.style = style
			v.boot()
			c, p := v.connect(9)
			p.alloc = 1 << 30
			p.send(opCreditUpdate, nil)
			const n = 64 << 10
			b.SetBytes(n)
			go func() {
				for buf := make([]byte, 256<<10); ; {
					if _, err := c.Write(buf); err != nil {
						return
					}
				}
			}()
			for b.Loop() {
				for got := 0; got < n; {
					head, m, ok := v.rx.waitUsed(patience)
					require.True(b, ok)
					got += int(m) - headerSize
					p.fwd += m - headerSize
					v.offer(int(head / 2))
				}
				if p.fwd%(1<<28) < n {
					p.send(opCreditUpdate, nil)
				}
			}
		})
	}
	b.Run("to-host", func(b *testing.B) {
		v := newFakeVM(b, nil)
		v.boot()
		c, p := v.connect(9)
		go func() {
			for buf := make([]byte, 256<<10); ; {
				if _, err := c.Read(buf); err != nil {
					return
				}
			}
		}()
		const n = minStreamBuffer
		b.SetBytes(n)
		data := make([]byte, n)
		room, sent := uint32(n), uint32(0)
		for b.Loop() {
			for room < n {
				q, ok := v.recv(patience)
				require.True(b, ok)
				room = q.bufAlloc - (sent - q.fwdCnt)
			}
			p.send(opRW, data)
			sent += n
			room -= n
		}
	})
	b.Run("round-trip", func(b *testing.B) {
		v := newFakeVM(b, nil)
		v.boot()
		c, p := v.connect(7)
		go func() {
			var buf [1]byte
			for {
				if _, err := c.Read(buf[:]); err != nil {
					return
				}
				_, _ = c.Write(buf[:])
			}
		}()
		for b.Loop() {
			p.send(opRW, []byte("x"))
			for {
				if q, ok := v.recv(patience); !ok || q.op == opRW {
					require.True(b, ok)
					break
				}
			}
			p.fwd++
		}
	})
}
