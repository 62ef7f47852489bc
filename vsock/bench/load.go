package bench

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"
)

// A Way leads to the ports of the guest.
type Way interface {
	// Open gets a stream whose directions end together.
	Open(port int) (io.ReadWriteCloser, error)
	// Duplex gets one whose directions end apart.
	Duplex(port int) (Stream, error)
}

// A Stream is one whose directions end apart.
type Stream interface {
	io.ReadWriteCloser
	CloseWrite() error
}

// What there is to measure.
const (
	ToGuest   = "to the guest"
	FromGuest = "from the guest"
	RoundTrip = "round trip"
	Connect   = "connect"
)

// A Figure is what came of one measurement.
type Figure struct {
	What    string
	Streams int

	// Of transfers.
	MiBs float64 // a second, all streams together
	Fair float64 // the last stream's time by the first's
	Lost int64   // bytes of all streams that did not arrive as they were sent

	// Of the others.
	P50, P99 time.Duration
}

// Transfer moves total bytes over a number of streams at once, shared equally. The
// clock runs from when all are open until the last byte has arrived.
func Transfer(w Way, what string, streams int, total int64) (Figure, error) {
	each := total / int64(streams)
	port := PortSource
	if what == ToGuest {
		if port = PortSink; streams > 1 {
			port = PortCheck
		}
	}
	conns := make([]io.ReadWriteCloser, streams)
	defer func() {
		for _, c := range conns {
			if c != nil {
				_ = c.Close() // it has done its service
			}
		}
	}()
	for i := range conns {
		var err error
		if what == ToGuest {
			conns[i], err = w.Duplex(port)
		} else {
			conns[i], err = w.Open(port)
		}
		if err != nil {
			conns[i] = nil
			return Figure{What: what, Streams: streams}, fmt.Errorf("stream %d: %w", i, err)
		}
	}
	ends, lost, errs := make([]time.Duration, streams), make([]int64, streams), make([]error, streams)
	var wg sync.WaitGroup
	begin := time.Now()
	for i, c := range conns {
		wg.Go(func() {
			var got int64
			if what == ToGuest {
				got, errs[i] = put(c.(Stream), each)
			} else {
				got, errs[i] = get(c, each)
			}
			lost[i], ends[i] = each-got, time.Since(begin)
		})
	}
	wg.Wait()
	last := slices.Max(ends)
	f := Figure{What: what, Streams: streams, MiBs: float64(each*int64(streams)) / (1 << 20) / last.Seconds()}
	f.Fair = float64(last) / float64(slices.Min(ends))
	for _, n := range lost {
		f.Lost += n
	}
	return f, errors.Join(errs...)
}

// put sends n bytes and returns how many the guest got.
func put(c Stream, n int64) (int64, error) {
	if err := send(c, n); err != nil {
		return 0, err
	}
	if err := c.CloseWrite(); err != nil {
		return 0, err
	}
	return readCount(c)
}

// get asks for n bytes and returns how many of what came were the right ones.
func get(c io.ReadWriter, n int64) (good int64, err error) { return Get(c, 0, n, n) }

// Get reads n bytes from an offset of the pattern on, of a stream to PortSource that
// is asked for total bytes first if that is not 0. It returns how many were the
// right ones.
func Get(c io.ReadWriter, off, n, total int64) (good int64, err error) {
	if total > 0 {
		if err := writeCount(c, total); err != nil {
			return 0, err
		}
	}
	buf := make([]byte, min(n, chunk))
	for good < n {
		m, err := c.Read(buf[:min(n-good, int64(len(buf)))])
		if !matches(off+good, buf[:m]) {
			return good, nil
		}
		if good += int64(m); err != nil {
			return good, err
		}
	}
	return good, nil
}

// RoundTrips sends one byte to the guest and waits for it to come back, count times
// in all over a number of streams at once.
func RoundTrips(w Way, streams, count int) (Figure, error) {
	conns := make(chan io.ReadWriteCloser, streams)
	defer func() {
		close(conns)
		for c := range conns {
			_ = c.Close() // it has done its service
		}
	}()
	for i := range streams {
		c, err := w.Open(PortEcho)
		if err != nil {
			return Figure{What: RoundTrip, Streams: streams}, fmt.Errorf("stream %d: %w", i, err)
		}
		conns <- c
	}
	return latency(RoundTrip, streams, count, func(turns int, note func(time.Duration)) error {
		c := <-conns
		defer func() { conns <- c }()
		var b [1]byte
		for range turns {
			begin := time.Now()
			if _, err := c.Write(b[:]); err != nil {
				return err
			}
			if _, err := io.ReadFull(c, b[:]); err != nil {
				return err
			}
			note(time.Since(begin))
		}
		return nil
	})
}

// Connects opens a stream and waits for the guest's first byte, count times in all,
// so many at a time. Before it came there may be nobody at the other end: who
// forwards a port takes connections first and makes them afterwards.
func Connects(w Way, streams, count int) (Figure, error) {
	return latency(Connect, streams, count, func(turns int, note func(time.Duration)) error {
		for range turns {
			begin := time.Now()
			c, err := w.Open(PortHello)
			if err != nil {
				return err
			}
			var b [1]byte
			if _, err = io.ReadFull(c, b[:]); err == nil {
				note(time.Since(begin))
			}
			if cerr := c.Close(); err == nil {
				err = cerr
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func latency(what string, streams, count int, worker func(turns int, note func(time.Duration)) error) (Figure, error) {
	each := max(1, count/streams)
	times := make([][]time.Duration, streams)
	errs := make([]error, streams)
	var wg sync.WaitGroup
	for i := range streams {
		wg.Go(func() {
			errs[i] = worker(each, func(d time.Duration) { times[i] = append(times[i], d) })
		})
	}
	wg.Wait()
	all := slices.Sorted(slices.Values(slices.Concat(times...)))
	f := Figure{What: what, Streams: streams}
	if len(all) > 0 {
		f.P50, f.P99 = all[len(all)/2], all[len(all)*99/100]
	}
	return f, errors.Join(errs...)
}
