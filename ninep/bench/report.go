package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"
)

// row is one server's measurement of one kind.
type row struct {
	s   *server
	res result
	cpu time.Duration // of the server, for one operation; 0 if not known

	// What the others are compared by, of the same round: ops/s and CPU by
	// those of the better peer, and the median time by the echo's.
	xops, xcpu, xecho float64
}

// table is what the servers did under one load.
type table struct {
	load load
	rows []row
}

// compare measures every server in turn, several times, and takes medians. What
// is compared is compared within a round, where the machine was the same.
func compare(ctx context.Context, list []*server, l load, rounds int) ([]row, error) {
	runs := make(map[*server][]row)
	for range rounds {
		var round []row
		for _, s := range list {
			if l.op == "write" && s.external {
				continue
			}
			r, err := once(ctx, s, l)
			if err != nil {
				return nil, fmt.Errorf("%s, %d connections, %d at a time: %w", l.op, l.conns, l.depth, err)
			}
			round = append(round, r)
		}
		relate(round)
		for _, r := range round {
			runs[r.s] = append(runs[r.s], r)
		}
	}
	var rows []row
	for _, s := range list {
		if r := runs[s]; len(r) > 0 {
			rows = append(rows, median(r))
		}
	}
	return rows, nil
}

// once measures one server once.
func once(ctx context.Context, s *server, l load) (row, error) {
	before, err := s.cpu()
	if err != nil {
		return row{}, err
	}
	res, err := measure(ctx, s, l)
	if err != nil {
		return row{}, err
	}
	after, err := s.cpu()
	if err != nil {
		return row{}, err
	}
	total := max(res.ops*l.length.Seconds(), 1)
	return row{s: s, res: res, cpu: time.Duration(float64(after-before) / total)}, nil
}

// relate fills in what rows of one round are compared by.
func relate(round []row) {
	var best float64
	var cpu, floor time.Duration
	for _, r := range round {
		if r.s.echo {
			floor = r.res.p50
		}
		if r.s.peer {
			best = max(best, r.res.ops)
			if cpu == 0 || r.cpu < cpu {
				cpu = r.cpu
			}
		}
	}
	ratio := func(a, b float64) float64 {
		if b == 0 {
			return 0
		}
		return a / b
	}
	for i := range round {
		r := &round[i]
		r.xops = ratio(r.res.ops, best)
		r.xcpu = ratio(float64(r.cpu), float64(cpu))
		r.xecho = ratio(float64(r.res.p50), float64(floor))
	}
}

// median takes the middle of each figure.
func median(r []row) row {
	m := row{s: r[0].s}
	pick := func(get func(row) float64) float64 {
		v := make([]float64, 0, len(r))
		for _, x := range r {
			v = append(v, get(x))
		}
		slices.Sort(v)
		return v[len(v)/2]
	}
	m.res.ops = pick(func(x row) float64 { return x.res.ops })
	m.res.p50 = time.Duration(pick(func(x row) float64 { return float64(x.res.p50) }))
	m.res.p99 = time.Duration(pick(func(x row) float64 { return float64(x.res.p99) }))
	m.cpu = time.Duration(pick(func(x row) float64 { return float64(x.cpu) }))
	m.xops = pick(func(x row) float64 { return x.xops })
	m.xcpu = pick(func(x row) float64 { return x.xcpu })
	m.xecho = pick(func(x row) float64 { return x.xecho })
	return m
}

// report says what is measured, and on what.
func report(w io.Writer, list []*server) {
	var names []string
	for _, s := range list {
		names = append(names, s.name)
	}
	fmt.Fprintf(w, "Machine: %s, %d processors, %s, %s\n", cpuModel(), runtime.NumCPU(), kernel(), runtime.Version())
	fmt.Fprintf(w, "Servers: %s; the load generator runs on the same processors.\n", strings.Join(names, ", "))
	fmt.Fprintln(w, "An operation of `read` is Twalk, Tlopen, Tread and Tclunk of a file of 16 bytes, each sent when the")
	fmt.Fprintf(w, "one before is answered; of `getattr` and `write` it is one message. vmfs has %d VMs, of which %d run: it reads a\n", vms, running)
	fmt.Fprintln(w, "VM's `state`, and what is written is a control message that does nothing. x is ops/s, and CPU, by the better peer's.")
}

func cpuModel() string {
	b, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(b)) {
		if name, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(v)
		}
	}
	return runtime.GOARCH
}

func kernel() string {
	b, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return runtime.GOOS
	}
	return "Linux " + strings.TrimSpace(string(b))
}

// times shows a ratio, or nothing if there is none.
func times(x float64) string {
	if x == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f", x)
}

// print prints the table.
func (t table) print(w io.Writer) {
	fmt.Fprintf(w, "\n### %s, %d connection(s), %d at a time on each\n\n", t.load.op, t.load.conns, t.load.depth)
	fmt.Fprintln(w, "| server | ops/s | p50 | p99 | server CPU/op | x ops/s | x CPU | x echo p50 |")
	fmt.Fprintln(w, "|---|---|---|---|---|---|---|---|")
	for _, r := range t.rows {
		if r.s.echo {
			r.xops, r.xcpu = 0, 0
		}
		fmt.Fprintf(w, "| %s | %.0f | %v | %v | %v | %s | %s | %s |\n", r.s.name, r.res.ops,
			r.res.p50.Round(100*time.Nanosecond), r.res.p99.Round(100*time.Nanosecond), r.cpu.Round(10*time.Nanosecond),
			times(r.xops), times(r.xcpu), times(r.xecho))
	}
}

// summary prints the ratios of all tables in one.
func summary(w io.Writer, all []table) {
	fmt.Fprintln(w, "\n### ratios: ops/s and CPU by the better peer's, p50 by the echo's")
	fmt.Fprintln(w, "\n| operation | connections | at a time | ninep ops/s | ninep CPU | ninep p50 | vmfs ops/s | vmfs CPU | vmfs p50 | echo ops/s |")
	fmt.Fprintln(w, "|---|---|---|---|---|---|---|---|---|---|")
	for _, t := range all {
		by := make(map[string]row)
		for _, r := range t.rows {
			by[r.s.name] = r
		}
		n, v, e := by["ninep"], by["vmfs"], by["echo"]
		fmt.Fprintf(w, "| %s | %d | %d | %s | %s | %s | %s | %s | %s | %s |\n", t.load.op, t.load.conns, t.load.depth,
			times(n.xops), times(n.xcpu), times(n.xecho), times(v.xops), times(v.xcpu), times(v.xecho), times(e.xops))
	}
}

// idleMemory measures what a connection costs that was used and is idle now.
func idleMemory(w io.Writer, list []*server) error {
	const n = 500
	fmt.Fprintf(w, "\n### memory of %d connections that were used and are idle\n\n| server | RSS each |\n|---|---|\n", n)
	for _, s := range list {
		if s.cmd == nil || s.echo {
			continue
		}
		before, err := s.rss()
		if err != nil {
			return err
		}
		var workers []*worker
		for range n {
			wk, err := newWorker(context.Background(), s, load{op: "read", depth: 4})
			if err == nil {
				err = wk.run(time.Now())
			}
			if err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			workers = append(workers, wk)
		}
		after, err := s.rss()
		for _, wk := range workers {
			wk.conn.Close()
		}
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "| %s | %.1f KiB |\n", s.name, float64(after-before)/n/1024)
	}
	return nil
}
