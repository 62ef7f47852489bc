// Command bench measures 9P servers side by side: ninep over p9's localfs,
// p9ufs of the p9 module, and Debian's diod, on one directory, and vmfs with a
// thousand simulated VMs, with a bare Unix-socket echo as the floor. It imports
// ninep, p9 and its localfs, and nothing else of vmfs.
//
//	go run ./ninep/bench -vmfs bin/vmfs       everything that is installed
//	go run ./ninep/bench -t 300ms -conns 1    a short look
//	go run ./ninep/bench -target 'vmfs=unix!/run/vmfs.sock,web/state'
//
// A run goes through the servers in turn for every measurement, several times
// over, so that they see the same machine, and takes medians.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	switch {
	case len(args) == 2 && args[0] == "serve-echo":
		return serveEcho(ctx, args[1])
	case len(args) == 4 && args[0] == "serve-ninep":
		return serveNinep(ctx, args[1], args[2], args[3])
	}
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	var (
		length  = fs.Duration("t", 400*time.Millisecond, "length of one measurement")
		rounds  = fs.Int("rounds", 5, "measurements of each kind; the median counts")
		conns   = fs.String("conns", "1,64", "numbers of connections")
		depths  = fs.String("depths", "1,8,64", "numbers of operations under way on each")
		ops     = fs.String("ops", "getattr,read,write", "operations")
		only    = fs.String("only", "", "these servers alone, by name")
		vmfs    = fs.String("vmfs", "", "the vmfs `program` to measure; none if empty")
		targets targetFlags
		profile = fs.String("profile", "", "`file` for a CPU profile of ninep's server")
	)
	fs.Var(&targets, "target", "another server, as NAME=ADDRESS[,PATH[,ANAME]]; PATH is a file to read (may be given again)")
	if err := fs.Parse(args); err != nil {
		return err
	}
	connList, err := numbers(*conns)
	if err != nil {
		return err
	}
	depthList, err := numbers(*depths)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("/tmp", "vmfsbench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	list, err := startServers(ctx, dir, *only, *vmfs, *profile)
	defer stopServers(list)
	if err != nil {
		return err
	}
	list = append(list, targets...)
	report(os.Stdout, list)
	if err := idleMemory(os.Stdout, list); err != nil {
		return err
	}
	var all []table
	for _, op := range strings.Split(*ops, ",") {
		for _, n := range connList {
			for _, depth := range depthList {
				l := load{op: op, conns: n, depth: depth, length: *length}
				rows, err := compare(ctx, list, l, *rounds)
				if err != nil {
					return err
				}
				t := table{l, rows}
				t.print(os.Stdout)
				all = append(all, t)
			}
		}
	}
	summary(os.Stdout, all)
	return nil
}

func numbers(s string) (list []int, err error) {
	for _, f := range strings.Split(s, ",") {
		n, err := strconv.Atoi(f)
		if err != nil || n < 1 {
			return nil, fmt.Errorf("%q is not a list of numbers", s)
		}
		list = append(list, n)
	}
	return list, nil
}

// targetFlags are servers that run already.
type targetFlags []*server

func (t *targetFlags) String() string { return "" }

func (t *targetFlags) Set(v string) error {
	name, rest, ok := strings.Cut(v, "=")
	if !ok || name == "" {
		return fmt.Errorf("%q is not NAME=ADDRESS", v)
	}
	parts := strings.SplitN(rest, ",", 3)
	s := &server{name: name, addr: parts[0], external: true}
	if len(parts) > 1 {
		s.file = strings.Split(parts[1], "/")
	}
	if len(parts) > 2 {
		s.aname = parts[2]
	}
	*t = append(*t, s)
	return nil
}
