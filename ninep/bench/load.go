package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"net"
	"sync"
	"time"

	"github.com/hugelgupf/p9/p9"

	"vmfs/ninep/dial"
	"vmfs/ninep/wire"
)

// load is one measurement: an operation, on so many connections, so many at a
// time on each.
type load struct {
	op     string
	conns  int
	depth  int
	length time.Duration
}

// result is what came of it.
type result struct {
	ops      float64 // a second
	p50, p99 time.Duration
	messages int64 // T-messages sent
}

// measure runs a load against a server.
func measure(ctx context.Context, s *server, l load) (result, error) {
	workers := make([]*worker, l.conns)
	defer func() {
		for _, w := range workers {
			if w != nil {
				w.conn.Close()
			}
		}
	}()
	for i := range workers {
		w, err := newWorker(ctx, s, l)
		if err != nil {
			return result{}, fmt.Errorf("%s: %w", s.name, err)
		}
		workers[i] = w
	}
	var (
		wg   sync.WaitGroup
		errs = make([]error, len(workers))
	)
	start := time.Now()
	for i, w := range workers {
		wg.Go(func() { errs[i] = w.run(start.Add(l.length)) })
	}
	wg.Wait()
	took := time.Since(start)
	if err := errors.Join(errs...); err != nil {
		return result{}, fmt.Errorf("%s: %w", s.name, err)
	}
	var all histogram
	var n, messages int64
	for _, w := range workers {
		all.add(&w.lat)
		n += w.done
		messages += w.sent
	}
	return result{float64(n) / took.Seconds(), all.quantile(0.50), all.quantile(0.99), messages}, nil
}

// worker is a connection with several operations under way. An operation is a
// chain of messages, each sent when the one before is answered, as a kernel
// would; different operations know nothing of each other.
type worker struct {
	conn  net.Conn
	echo  bool
	depth int
	steps [][][]byte // by slot: the frames of its operation

	at    []int // by slot: the step under way
	began []time.Time
	lat   histogram
	done  int64
	sent  int64
	out   []byte
	in    []byte
}

// msize is what is asked for. Replies of a whole depth fit the read buffer.
const msize = 65536

func newWorker(ctx context.Context, s *server, l load) (*worker, error) {
	conn, err := dial.Dial(ctx, s.addr)
	if err != nil {
		return nil, err
	}
	w := &worker{conn: conn, echo: s.echo, depth: l.depth, in: make([]byte, 256<<10),
		at: make([]int, l.depth), began: make([]time.Time, l.depth)}
	if err := w.prepare(s, l.op); err != nil {
		conn.Close()
		return nil, err
	}
	return w, nil
}

// prepare attaches, and makes the frames.
func (w *worker) prepare(s *server, op string) error {
	if s.echo {
		for tag := range w.depth {
			w.steps = append(w.steps, [][]byte{getattr(uint16(tag), 0)})
		}
		return nil
	}
	file := s.file
	if len(file) == 0 {
		file = []string{"state"}
	}
	setup := [][]byte{
		frame(wire.Tversion, wire.Msg{Tag: wire.NoTag, Count: msize, Name: "9P2000.L"}),
		frame(wire.Tattach, wire.Msg{Fid2: wire.NoFid, Name: "root", Name2: s.aname}),
		walk(0, 1, file),
	}
	for slot := range w.depth {
		tag, fid := uint16(slot), uint32(100+slot)
		switch op {
		case "getattr":
			w.steps = append(w.steps, [][]byte{getattr(tag, 1)})
		case "read":
			w.steps = append(w.steps, [][]byte{
				walk(tag, fid, file), frame(wire.Tlopen, wire.Msg{Tag: tag, Fid: fid}),
				frame(wire.Tread, wire.Msg{Tag: tag, Fid: fid, Count: 4096}), frame(wire.Tclunk, wire.Msg{Tag: tag, Fid: fid})})
		case "write":
			if s.external {
				return fmt.Errorf("a server that runs already is not written to")
			}
			file, text := []string{fmt.Sprintf("w%d", slot%64)}, state
			if s.target != nil {
				file, text = s.target(slot)
			}
			setup = append(setup, walk(tag, fid, file), frame(wire.Tlopen, wire.Msg{Tag: tag, Fid: fid, Flags: 1}))
			w.steps = append(w.steps, [][]byte{frame(wire.Twrite, wire.Msg{Tag: tag, Fid: fid, Data: []byte(text)})})
		default:
			return fmt.Errorf("no operation %q", op)
		}
	}
	for _, f := range setup {
		if err := w.rpc(f); err != nil {
			return err
		}
	}
	return nil
}

func (w *worker) rpc(f []byte) error {
	if _, err := w.conn.Write(f); err != nil {
		return err
	}
	have := 0
	for have < 4 || have < int(binary.LittleEndian.Uint32(w.in)) {
		n, err := w.conn.Read(w.in[have:])
		if err != nil {
			return err
		}
		have += n
	}
	return check(w.in)
}

// check looks for an error reply.
func check(reply []byte) error {
	switch t, _ := wire.Header(reply); t {
	case wire.Rlerror:
		return fmt.Errorf("the server says errno %d", binary.LittleEndian.Uint32(reply[wire.HeaderSize:]))
	case wire.Rerror:
		return errors.New("the server says Rerror")
	}
	return nil
}

// run goes on until the time is up and everything is answered.
func (w *worker) run(end time.Time) error {
	now := time.Now()
	for slot := range w.depth {
		w.begin(slot, now)
	}
	open := w.depth
	have := 0
	for open > 0 {
		if len(w.out) > 0 {
			if _, err := w.conn.Write(w.out); err != nil {
				return err
			}
			w.out = w.out[:0]
		}
		n, err := w.conn.Read(w.in[have:])
		if err != nil {
			return err
		}
		have += n
		now = time.Now()
		pos := 0
		for have-pos >= 7 {
			size := int(binary.LittleEndian.Uint32(w.in[pos:]))
			if have-pos < size {
				break
			}
			if err := check(w.in[pos:]); err != nil && !w.echo {
				return err
			}
			slot := int(binary.LittleEndian.Uint16(w.in[pos+5:]))
			pos += size
			if w.at[slot]++; w.at[slot] < len(w.steps[slot]) {
				w.out = append(w.out, w.steps[slot][w.at[slot]]...)
				w.sent++
				continue
			}
			w.done++
			w.lat.note(now.Sub(w.began[slot]))
			if now.Before(end) {
				w.begin(slot, now)
			} else {
				open--
			}
		}
		have = copy(w.in, w.in[pos:have])
	}
	return nil
}

func (w *worker) begin(slot int, now time.Time) {
	w.at[slot] = 0
	w.began[slot] = now
	w.out = append(w.out, w.steps[slot][0]...)
	w.sent++
}

// codec writes the frames, all before the measurement.
var codec = wire.Codec{Dialect: wire.Linux}

func frame(t wire.Type, m wire.Msg) []byte { return codec.Append(nil, t, &m) }

func getattr(tag uint16, fid uint32) []byte {
	return frame(wire.Tgetattr, wire.Msg{Tag: tag, Fid: fid, Mask: basic})
}

// basic is what stat(2) shows, which is what Linux asks for.
var basic = p9.AttrMask{Mode: true, NLink: true, UID: true, GID: true, RDev: true, ATime: true, MTime: true, CTime: true, INo: true, Size: true, Blocks: true}

func walk(tag uint16, newfid uint32, names []string) []byte {
	return frame(wire.Twalk, wire.Msg{Tag: tag, Fid2: newfid, Names: names})
}

// histogram counts durations in steps of about 3 per cent.
type histogram struct {
	count [64 * 32]int64
	total int64
}

func bucket(d time.Duration) int {
	v := uint64(max(d, 32))
	exp := bits.Len64(v) - 6
	return exp*32 + int(v>>exp)&31
}

func (h *histogram) note(d time.Duration) {
	h.count[bucket(d)]++
	h.total++
}

func (h *histogram) add(o *histogram) {
	for i, n := range o.count {
		h.count[i] += n
	}
	h.total += o.total
}

func (h *histogram) quantile(q float64) time.Duration {
	want := int64(q * float64(h.total))
	for i, n := range h.count {
		if want -= n; want < 0 {
			return time.Duration((32 + uint64(i%32)) << (i / 32))
		}
	}
	return 0
}
