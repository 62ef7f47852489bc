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
}

// compare measures every server in turn, several times, and takes medians.
func compare(ctx context.Context, list []*server, l load, rounds int) ([]row, error) {
	runs := make(map[*server][]row)
	for range rounds {
		for _, s := range list {
			if l.op == "write" && s.external {
				continue
			}
			before, err := s.cpu()
			if err != nil {
				return nil, err
			}
			res, err := measure(ctx, s, l)
			if err != nil {
				return nil, fmt.Errorf("%s, %d connections, %d at a time: %w", l.op, l.conns, l.depth, err)
			}
			after, err := s.cpu()
			if err != nil {
				return nil, err
			}
			total := max(res.ops*l.length.Seconds(), 1)
			runs[s] = append(runs[s], row{s, res, time.Duration(float64(after-before) / total)})
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

// median takes the run in the middle, by speed, and the middle of the times.
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
	fmt.Fprintln(w, "one before is answered; of `getattr` and `write` it is one message. x is ops/s, and CPU, by the better peer's.")
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

// printRows prints a table.
func printRows(w io.Writer, op string, conns, depth int, rows []row) {
	fmt.Fprintf(w, "\n### %s, %d connection(s), %d at a time on each\n\n", op, conns, depth)
	fmt.Fprintln(w, "| server | ops/s | p50 | p99 | server CPU/op | x ops/s | x CPU | x echo p50 |")
	fmt.Fprintln(w, "|---|---|---|---|---|---|---|---|")
	var best float64
	var cpu, floor time.Duration
	for _, r := range rows {
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
	ratio := func(a, b float64) string {
		if a == 0 || b == 0 {
			return ""
		}
		return fmt.Sprintf("%.2f", a/b)
	}
	for _, r := range rows {
		xops, xcpu := ratio(r.res.ops, best), ratio(float64(r.cpu), float64(cpu))
		if r.s.echo {
			xops, xcpu = "", ""
		}
		fmt.Fprintf(w, "| %s | %.0f | %v | %v | %v | %s | %s | %s |\n", r.s.name, r.res.ops,
			r.res.p50.Round(100*time.Nanosecond), r.res.p99.Round(100*time.Nanosecond), r.cpu.Round(10*time.Nanosecond),
			xops, xcpu, ratio(float64(r.res.p50), float64(floor)))
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
