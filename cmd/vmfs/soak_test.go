package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hugelgupf/p9/linux"
	"github.com/stretchr/testify/require"

	"vmfs/guest/guesttest"
)

const (
	soakVMs     = 20
	soakClients = 5
	// soakStep is how long clients act before everything is compared.
	soakStep = 1500 * time.Millisecond
	// soakGrace is how long it may take until, with nobody acting, records,
	// processes, sockets and states agree.
	soakGrace = 45 * time.Second
)

// TestSoak has several clients do what comes to their minds with the VMs of one
// server, while VMMs and the server itself are killed under them. After each
// step, when nobody acts, all that is kept of every VM has to agree; at the end
// nothing may be left.
//
//	VMFS_SOAK=10m           for how long
//	VMFS_SOAK_SEED=N        what comes to their minds, as far as time plays no part
//	VMFS_SOAK_BACKEND=sim   with simulated VMs instead of QEMU
func TestSoak(t *testing.T) {
	duration, err := time.ParseDuration(os.Getenv("VMFS_SOAK"))
	if err != nil {
		t.Skip("takes minutes: make soak, or VMFS_SOAK=10m go test -race -timeout 30m -count=1 -run '^TestSoak$' -v ./cmd/vmfs")
	}
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("VMFS_SOAK_SEED"); text != "" {
		seed, err = strconv.ParseUint(text, 10, 64)
		require.NoError(t, err)
	}
	fmt.Printf("soak: VMFS_SOAK_SEED=%d\n", seed)
	k := &soak{
		server: newServer(t),
		sim:    os.Getenv("VMFS_SOAK_BACKEND") == "sim",
		rnd:    rand.New(rand.NewPCG(seed, 0)),
		seqs:   make(map[string]uint64),
		counts: make(map[string]int),
	}
	if !k.sim {
		k.kernel, k.initrd = guesttest.Image(t)
	}
	k.server.start()
	k.vsock = !k.sim && strings.Contains(k.must("cat", "backends/qemu/capabilities"), "vsock")
	k.fresh = k.idleUsage()
	root := k.attach()
	for i := range soakVMs {
		name := fmt.Sprintf("vm%02d", i)
		k.names = append(k.names, name)
		require.NoError(t, k.makeOne(root, name))
	}
	root.Close()

	var clients []*soakClient
	for i := range soakClients {
		clients = append(clients, &soakClient{soak: k, rnd: rand.New(rand.NewPCG(seed, uint64(i+1)))})
	}
	steps := 0
	for end := time.Now().Add(duration); time.Now().Before(end) && !t.Failed(); steps++ {
		k.step(clients)
		if !t.Failed() {
			k.agree(steps)
		}
		if steps%20 == 19 {
			fmt.Printf("soak: step %d, %v to go, server has %v\n", steps+1, time.Until(end).Round(time.Second), k.usage())
		}
	}
	for _, c := range clients {
		c.hangUp()
	}
	for _, what := range slices.Sorted(maps.Keys(k.counts)) {
		fmt.Printf("soak: %6d %s\n", k.counts[what], what)
	}
	if t.Failed() {
		t.Fatalf("failed in step %d; VMFS_SOAK_SEED=%d", steps, seed)
	}
	k.end()
}

// A soak is what the clients share.
type soak struct {
	*server
	sim            bool
	kernel, initrd string
	names          []string
	rnd            *rand.Rand // of the main goroutine
	fresh          usage      // of a server that has done nothing
	vsock          bool       // VMs can have a vsock device

	// up is held for reading while a connection to the server is being made, and
	// for writing while there is none.
	up sync.RWMutex

	restarts atomic.Int64 // of the server; counted before it ends

	mu     sync.Mutex // guards what follows
	counts map[string]int
	chaos  map[string]bool // VMs whose VMM was killed in this step, "" for the server

	seqs map[string]uint64 // of the main goroutine: by uuid, the number of a VM's last event
}

// makeOne makes a VM. Most have no kernel: their firmware finds nothing to boot
// and costs nothing.
func (k *soak) makeOne(a attached, name string) error {
	if err := a.mkdir(name); err != nil {
		return err
	}
	n, err := strconv.Atoi(name[2:])
	require.NoError(k.t, err)
	config := "memory=64M\nhotplug=64M\nqemu.accel=tcg\n"
	switch {
	case k.sim:
		config = "hypervisor=sim\nmemory=64M\nhotplug=64M\n'sim.boot-time=100ms'\n'sim.poweroff-time=50ms'\n"
		if n%5 == 0 {
			config += "'sim.linger=yes'\n"
		}
	case n%7 == 0:
		config = fmt.Sprintf("memory=128M\nhotplug=64M\nkernel=%s\ninitrd=%s\nargs='console=ttyS0 quiet no_timer_check'\nqemu.accel=tcg\n", k.kernel, k.initrd)
	}
	if k.vsock && n%4 == 0 {
		config += fmt.Sprintf("vsock.cid=%d\n", 1000+n)
	}
	return a.send(name+"/config", config)
}

// step lets the clients act for a while, and something else act against them.
func (k *soak) step(clients []*soakClient) {
	k.mu.Lock()
	k.chaos = make(map[string]bool)
	k.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), soakStep)
	defer cancel()
	var wg sync.WaitGroup
	for _, c := range clients {
		wg.Go(func() {
			for ctx.Err() == nil && !k.t.Failed() {
				c.act()
			}
		})
	}
	for ctx.Err() == nil {
		select {
		case <-time.After(time.Duration(k.rnd.IntN(int(soakStep)))):
			k.harm()
		case <-ctx.Done():
		}
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(3 * time.Minute):
		// What they wait for is in the server's stack traces.
		_ = k.cmd.Process.Signal(syscall.SIGQUIT)
		<-done
		k.t.Error("clients hung for minutes; the server's log has its goroutines")
	}
}

// harm kills something, or nothing.
func (k *soak) harm() {
	kill := func(what string, of func(processes) []int) {
		procs := k.processes()
		var names []string
		for name, p := range procs {
			if len(of(p)) > 0 {
				names = append(names, name)
			}
		}
		if len(names) == 0 {
			return
		}
		slices.Sort(names)
		name := names[k.rnd.IntN(len(names))]
		k.mu.Lock()
		k.chaos[name] = true
		k.mu.Unlock()
		if syscall.Kill(of(procs[name])[0], syscall.SIGKILL) == nil {
			k.count("kill of " + what)
		}
	}
	switch n := k.rnd.IntN(20); {
	case n < 6:
		kill("a VMM", func(p processes) []int { return p.vmms })
	case n < 9:
		kill("a vsock device", func(p processes) []int { return p.devices })
	case n < 12:
		k.restart(n == 11)
	}
}

// restart ends the server, as a crash does or in good order, and starts the next.
func (k *soak) restart(orderly bool) {
	k.mu.Lock()
	k.chaos[""] = true
	k.mu.Unlock()
	k.restarts.Add(1)
	k.up.Lock()
	defer k.up.Unlock()
	if orderly {
		k.count("end of the server in good order")
		_ = k.cmd.Process.Signal(syscall.SIGTERM)
		_ = k.cmd.Wait() // its status is in the log
		k.cmd = nil
	} else {
		k.count("kill of the server")
		k.server.kill()
	}
	k.server.start()
}

func (k *soak) count(what string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.counts[what]++
}

// harmed tells whether something was killed in this step that the VM needs.
func (k *soak) harmed(name string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.chaos[name] || k.chaos[""]
}

// A soakClient does one thing after the other.
type soakClient struct {
	*soak
	rnd  *rand.Rand // of this client
	conn *attached
	of   int64 // the server that conn is to, by restarts
}

func (c *soakClient) hangUp() {
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
	}
}

// attached returns the client's connection, a new one where the last is lost.
func (c *soakClient) connected() (attached, error) {
	if c.conn == nil {
		c.up.RLock()
		defer c.up.RUnlock()
		ctx, cancel := context.WithTimeout(context.Background(), connectTimeout)
		defer cancel()
		s, err := attachTo(ctx, c.addr)
		if err != nil {
			return attached{}, err
		}
		c.conn, c.of = &attached{s}, c.restarts.Load()
	}
	return *c.conn, nil
}

// act does one thing and judges how it ended.
func (c *soakClient) act() {
	a, err := c.connected()
	if err != nil {
		c.t.Errorf("no connection: %v", err)
		return
	}
	name := c.names[c.rnd.IntN(len(c.names))]
	what, err := c.something(a, name)
	var errno linux.Errno
	switch {
	case err == nil:
		c.count(what + ": done")
	case errors.Is(err, errHungUp):
		c.count(what + ": hung up")
	case errors.As(err, &errno):
		c.count(fmt.Sprintf("%s: %v", what, errno))
		if errno == linux.EIO && !c.harmed(name) {
			c.t.Errorf("%s %s: %v, and nobody was killed", what, name, err)
		}
	default: // the connection is lost
		c.count(what + ": connection lost")
		c.hangUp()
		if !c.harmed("") && c.of == c.restarts.Load() {
			c.t.Errorf("%s %s: %v, and the server was not killed", what, name, err)
		}
	}
}

// something does something with a VM. What it returns says what that was.
func (c *soakClient) something(a attached, name string) (string, error) {
	ctl := func(verb, args string) (string, error) {
		return verb, a.send(name+"/ctl", strings.TrimSpace(verb+" "+args))
	}
	pick := func(words ...string) string { return words[c.rnd.IntN(len(words))] }
	snapshot := pick("one", "two")
	switch n := c.rnd.IntN(100); {
	case n < 22:
		return ctl("start", "")
	case n < 30:
		return ctl("pause", "")
	case n < 37:
		return ctl("resume", "")
	case n < 41:
		return ctl("reset", "")
	case n < 45:
		return ctl("poweroff", "")
	case n < 49:
		return ctl("stop", "")
	case n < 54:
		return ctl("kill", "")
	case n < 58:
		return ctl("memory", pick("32M", "48M", "64M", "80M", "100M", "128M", "300M"))
	case n < 60:
		return ctl("memory", pick("48M", "96M")+" wait 300ms")
	case n < 62:
		return ctl("cancel", "")
	case n < 67:
		// A guest that is to give up its vsock device first may let it wait.
		return "snapshot", c.apart(3*time.Second, func(a attached) error { return a.send(name+"/ctl", "snapshot "+snapshot) })
	case n < 71:
		return ctl("restore", snapshot)
	case n < 74:
		return "remove a snapshot", a.rmdir(name + "/snapshots/" + snapshot)
	case n < 77:
		return "config", write(context.Background(), a.Client, name+"/config", os.O_WRONLY|os.O_APPEND, []string{"vcpus=" + pick("1", "2")}, nil)
	case n < 81:
		return "write console", c.writeConsole(a, name)
	case n < 86:
		return c.follow(name, pick(name+"/events", "events"))
	case n < 88:
		return c.glance(name, name+"/console")
	case n < 90:
		return c.glance(name, name+"/wait")
	case n < 92:
		return "remove and make", c.remake(a, name)
	default:
		return "look", c.look(a, name)
	}
}

// look reads what there is to read.
func (c *soakClient) look(a attached, name string) error {
	if _, err := a.list("/"); err != nil {
		return err
	}
	if _, err := a.list(name + "/snapshots"); err != nil {
		return err
	}
	for _, f := range []string{"ctl", "config", "state", "memory", "capabilities", "info", "error", "log", "pid"} {
		if _, err := a.read(name + "/" + f); err != nil {
			return err
		}
	}
	return nil
}

// writeConsole types something. A guest that does not take it must hold up nobody
// for ever: the client hangs up.
func (c *soakClient) writeConsole(a attached, name string) error {
	return c.apart(400*time.Millisecond, func(a attached) error { return a.send(name+"/console", "echo hello") })
}

// errHungUp is the end of what apart did not wait for.
var errHungUp = errors.New("hung up")

// apart does something on a connection of its own, and hangs up in the middle of
// it if it takes longer than some part of most.
func (c *soakClient) apart(most time.Duration, f func(attached) error) error {
	c.up.RLock()
	ctx, cancel := context.WithTimeout(context.Background(), connectTimeout)
	s, err := attachTo(ctx, c.addr)
	cancel()
	c.up.RUnlock()
	if err != nil {
		return err
	}
	defer s.Close()
	done := make(chan error, 1)
	go func() { done <- f(attached{s}) }()
	select {
	case err = <-done:
		return err
	case <-time.After(time.Duration(c.rnd.IntN(int(most)))):
		s.Close()
		<-done
		return errHungUp
	}
}

// glance reads a file that blocks, for a moment.
func (c *soakClient) glance(name, path string) (string, error) {
	return "read " + path[len(name)+1:], c.apart(400*time.Millisecond, func(a attached) error {
		f, err := a.open(path)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, f.With(context.Background()))
		return err
	})
}

// follow reads events for a moment: their numbers only ever grow, whoever reads
// them from whichever server.
func (c *soakClient) follow(name, path string) (string, error) {
	what := "read events of all"
	if path != "events" {
		what = "read events of one"
	}
	return what, c.apart(400*time.Millisecond, func(a attached) error {
		f, err := a.open(path)
		if err != nil {
			return err
		}
		// Records that others read so far were told before this open, or may come
		// here too.
		seen := make(map[string]uint64)
		var rest string
		buf := make([]byte, ioSize)
		for {
			n, err := f.Read(context.Background(), buf)
			if err != nil {
				return nil // the connection's end; or the VM's
			}
			rest += string(buf[:n])
			for {
				line, more, whole := strings.Cut(rest, "\n")
				if !whole {
					break
				}
				rest = more
				vm, seq, kind, err := parseEvent(line)
				if err != nil {
					c.t.Errorf("%s: %v", path, err)
					return nil
				}
				if kind == "created" {
					delete(seen, vm)
				}
				if seq <= seen[vm] {
					c.t.Errorf("%s: event %d of %s came after %d: %s", path, seq, vm, seen[vm], line)
				}
				seen[vm] = seq
			}
		}
	})
}

// parseEvent takes a line of events apart.
func parseEvent(line string) (vm string, seq uint64, kind string, err error) {
	words := strings.SplitN(line, " ", 5)
	if len(words) < 4 {
		return "", 0, "", fmt.Errorf("not an event: %q", line)
	}
	if _, err := time.Parse(time.RFC3339, words[1]); err != nil {
		return "", 0, "", fmt.Errorf("event %q: %w", line, err)
	}
	seq, err = strconv.ParseUint(words[0], 10, 64)
	return words[2], seq, words[3], err
}

// remake removes a VM that does not run, and makes it again. Another client may
// be first with the one or the other.
func (c *soakClient) remake(a attached, name string) error {
	if err := a.rmdir(name); err != nil {
		return err
	}
	return c.makeOne(a, name)
}
