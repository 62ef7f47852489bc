package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"vmfs/client"
	"vmfs/guest"
	"vmfs/guest/guesttest"
	"vmfs/vsock"
	"vmfs/vsock/bench"
)

// The size of the measurements. Ways that are compared take turns.
const (
	vsockMiB   = 128
	vsockTrips = 2048
	vsockOpens = 1024
	vsockMsize = 1 << 20
)

var (
	// vsockTurns is how often everything is measured, or $VMFS_BENCH_TURNS says
	// how often.
	vsockTurns = 3
	// vsockStreams are how many streams there are at once, or $VMFS_BENCH_STREAMS
	// says how many.
	vsockStreams = []int{1, 64, 512}
)

// The ways, as the tables call them.
const (
	wayDirect = "the device's socket"
	way9P     = "9P"
	waySlirp  = "slirp TCP"

	// slirpMost is for how many streams slirp is measured: hundreds of them stand
	// still, in every run, for minutes.
	slirpMost = 64
	waySocat  = "socat, a process"
	wayRdwr   = "`vmfs rdwr`, a process"
)

// TestBenchVsock measures streams into one guest by the tree and by the ways beside
// it, and prints the tables of docs/benchmarks.md.
func TestBenchVsock(t *testing.T) {
	if !strings.Contains(os.Getenv("VMFS_BENCH"), "vsock") {
		t.Skip("takes minutes: make bench-vsock, or VMFS_BENCH=vsock go test -count=1 -timeout 30m -run BenchVsock -v ./cmd/vmfs")
	}
	if n, err := strconv.Atoi(os.Getenv("VMFS_BENCH_STREAMS")); err == nil {
		vsockStreams = []int{n}
	}
	if n, err := strconv.Atoi(os.Getenv("VMFS_BENCH_TURNS")); err == nil {
		vsockTurns = n
	}
	b, ports := newVsockBench(t)
	s := b.server
	fmt.Printf("\nvsock: a guest of 512 MiB under TCG, %s, %d CPUs, %s; %d turns, %d MiB a transfer\n",
		strings.TrimSpace(hostKernel()), runtime.NumCPU(), runtime.Version(), vsockTurns, vsockMiB)

	c, err := (client.Config{MessageSize: vsockMsize}).Dial(t.Context(), s.addr)
	require.NoError(t, err)
	defer c.Close()
	ways := []namedWay{
		{wayDirect, direct{&vsock.Hybrid{Socket: s.hostSocket("web")}}},
		{way9P, tree{c}},
		{waySlirp, ports},
	}
	single := []namedWay{{waySocat, b.socat()}, {wayRdwr, b.rdwr()}}
	for turn := range vsockTurns {
		for _, streams := range vsockStreams {
			b.turn(turn, streams, ways)
		}
		b.turn(turn, 1, single)
	}
	if vsockTurns > 0 {
		b.tables()
	}
	b.resident(ways[0].way)
	b.mounted()
}

type namedWay struct {
	name string
	way  bench.Way
}

// vsockBench is what is measured of the VM web, by what, way and streams.
type vsockBench struct {
	*server
	peer    string
	figures map[string][]bench.Figure
}

// newVsockBench starts a VM whose guest serves the streams, also at ports of the
// host that slirp forwards, and a server that is the program as it is shipped.
func newVsockBench(t *testing.T) (*vsockBench, bench.TCP) {
	useBuilt(t)
	peer := buildPeer(t)
	kernel, initrd := guesttest.Image(t)
	ports, forwards := forwarded(t)
	s := newServer(t)
	s.start("--listen", "tcp!127.0.0.1!0,user=root")
	s.makeVM("web", fmt.Sprintf("memory=512M\nkernel=%s\ninitrd=%s\nargs='console=ttyS0 quiet vmfs.net=user'\nqemu.accel=tcg\nvsock.cid=3\nnet=user%s\n",
		kernel, initrd, forwards))
	s.must("write", "web/ctl", "start")
	s.awaitVsock()
	b := &vsockBench{server: s, peer: peer, figures: make(map[string][]bench.Figure)}
	b.servePeer()
	return b, ports
}

// turn measures everything once by each of the ways.
func (b *vsockBench) turn(turn, streams int, ways []namedWay) {
	for _, w := range ways {
		for _, m := range []struct {
			what string
			do   func() (bench.Figure, error)
		}{
			{bench.ToGuest, func() (bench.Figure, error) { return transfer(w.way, bench.ToGuest, streams) }},
			{bench.FromGuest, func() (bench.Figure, error) { return transfer(w.way, bench.FromGuest, streams) }},
			{bench.RoundTrip, func() (bench.Figure, error) { return bench.RoundTrips(w.way, streams, vsockTrips) }},
			{bench.Connect, func() (bench.Figure, error) { return bench.Connects(w.way, streams, vsockOpens) }},
		} {
			key := figureKey(m.what, w.name, streams)
			fails := bench.Figure{What: m.what, MiBs: math.NaN(), P50: -1}
			if w.name == waySlirp && streams > slirpMost {
				b.figures[key] = append(b.figures[key], fails)
				continue
			}
			fig, err := m.do()
			if err != nil && w.name == waySlirp {
				b.t.Logf("turn %d: %s by %s, %d: %v", turn, fig.What, w.name, streams, firstLine(err))
				fig, err = fails, nil
			}
			require.NoError(b.t, err, "turn %d, %s, %d streams, %s", turn, w.name, streams, fig.What)
			require.Zero(b.t, fig.Lost, "%s, %s, %d streams: bytes are lost", fig.What, w.name, streams)
			b.figures[key] = append(b.figures[key], fig)
			b.t.Logf("turn %d: %s by %s, %d: %+v", turn, fig.What, w.name, streams, fig)
		}
	}
}

// transfer moves at least a megabyte by each stream, so that what buffers hold is
// not most of it.
func transfer(w bench.Way, what string, streams int) (bench.Figure, error) {
	return bench.Transfer(w, what, streams, int64(max(vsockMiB, streams))<<20)
}

func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}

func figureKey(what, way string, streams int) string { return fmt.Sprint(what, way, streams) }

// ratio returns the middle one of the ratios within the turns, of what of has to
// what base has.
func (b *vsockBench) ratio(what, of, base string, streams int, by func(bench.Figure) float64) float64 {
	var rs []float64
	for i, f := range b.figures[figureKey(what, of, streams)] {
		rs = append(rs, by(f)/by(b.figures[figureKey(what, base, streams)][i]))
	}
	return middle(rs)
}

// value returns the middle one of the figures.
func (b *vsockBench) value(what, way string, streams int, by func(bench.Figure) float64) float64 {
	var vs []float64
	for _, f := range b.figures[figureKey(what, way, streams)] {
		vs = append(vs, by(f))
	}
	return middle(vs)
}

func middle(vs []float64) float64 {
	slices.Sort(vs)
	return vs[len(vs)/2]
}

func perSecond(f bench.Figure) float64 { return f.MiBs }
func p50(f bench.Figure) float64 {
	if f.P50 < 0 {
		return math.NaN()
	}
	return float64(f.P50)
}

// tables prints what came of the turns.
func (b *vsockBench) tables() {
	fmt.Printf("\n| throughput | streams | %s | 9P | ratio | slirp TCP | 9P to slirp | 9P: last to first, each turn |\n|---|---:|---:|---:|---:|---:|---:|---:|\n", wayDirect)
	for _, what := range []string{bench.ToGuest, bench.FromGuest} {
		for _, n := range vsockStreams {
			fmt.Printf("| %s | %d | %.0f MiB/s | %.0f MiB/s | %.2f | %s | %s | %s |\n", what, n,
				b.value(what, wayDirect, n, perSecond), b.value(what, way9P, n, perSecond), b.ratio(what, way9P, wayDirect, n, perSecond),
				cell(b.value(what, waySlirp, n, perSecond), n, printed("%.0f MiB/s")), cell(b.ratio(what, way9P, waySlirp, n, perSecond), n, printed("%.2f")), b.fairness(what, n))
		}
		fmt.Printf("| %s, by processes | 1 | socat %.0f MiB/s | `vmfs rdwr` %.0f MiB/s | %.2f | | | |\n", what,
			b.value(what, waySocat, 1, perSecond), b.value(what, wayRdwr, 1, perSecond), b.ratio(what, wayRdwr, waySocat, 1, perSecond))
	}
	fmt.Printf("\n| p50 | streams | %s | 9P | more | ratio | slirp TCP | 9P to slirp |\n|---|---:|---:|---:|---:|---:|---:|---:|\n", wayDirect)
	us := func(v float64) string { return show(time.Duration(v)) }
	for _, what := range []string{bench.RoundTrip, bench.Connect} {
		for _, n := range vsockStreams {
			d, p := b.value(what, wayDirect, n, p50), b.value(what, way9P, n, p50)
			fmt.Printf("| %s | %d | %s | %s | %s | %.2f | %s | %s |\n", what, n, us(d), us(p), us(p-d),
				b.ratio(what, way9P, wayDirect, n, p50), cell(b.value(what, waySlirp, n, p50), n, us), cell(b.ratio(what, way9P, waySlirp, n, p50), n, printed("%.2f")))
		}
		d, p := b.value(what, waySocat, 1, p50), b.value(what, wayRdwr, 1, p50)
		fmt.Printf("| %s, by processes | 1 | socat %s | `vmfs rdwr` %s | %s | %.2f | | |\n", what, us(d), us(p), us(p-d),
			b.ratio(what, wayRdwr, waySocat, 1, p50))
	}
}

// cell shows a figure of slirp's, which not every number of streams has.
func cell(v float64, streams int, show func(float64) string) string {
	switch {
	case !math.IsNaN(v):
		return show(v)
	case streams > slirpMost:
		return "not measured"
	}
	return "fails"
}

func printed(format string) func(float64) string {
	return func(v float64) string { return fmt.Sprintf(format, v) }
}

// fairness is how much longer the last stream took than the first, in each turn.
func (b *vsockBench) fairness(what string, streams int) string {
	var turns []string
	for _, f := range b.figures[figureKey(what, way9P, streams)] {
		turns = append(turns, fmt.Sprintf("%.2f", f.Fair))
	}
	return strings.Join(turns, ", ")
}

// resident prints what the device has in memory while streams are busy both ways.
func (b *vsockBench) resident(w bench.Way) {
	t := b.t
	pid := b.device()
	fmt.Printf("\n| the device's resident memory | |\n|---|---:|\n")
	fmt.Printf("| with no stream | %.1f MiB |\n", float64(vmStatus(t, pid, "VmRSS"))/1024)
	for _, n := range []int{10, 512} {
		// What is counted from now on is the most there was.
		require.NoError(t, os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0))
		for _, what := range []string{bench.ToGuest, bench.FromGuest} {
			_, err := transfer(w, what, n)
			require.NoError(t, err)
		}
		fmt.Printf("| with %d busy streams, the most | %.1f MiB |\n", n, float64(vmStatus(t, pid, "VmHWM"))/1024)
	}
	// Streams that nobody reads: all that may be kept for them is.
	require.NoError(t, os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0))
	for range 512 {
		c, err := w.Open(bench.PortSource)
		require.NoError(t, err)
		defer c.Close()
		_, err = c.Write([]byte{0, 0, 0, 0, 1, 0, 0, 0}) // 4 GiB
		require.NoError(t, err)
	}
	for last := uint64(0); ; time.Sleep(time.Second) {
		st := b.deviceStatus()
		if st.ToHost == last {
			break
		}
		last = st.ToHost
	}
	fmt.Printf("| with 512 full streams that nobody reads, the most | %.1f MiB |\n", float64(vmStatus(t, pid, "VmHWM"))/1024)
}

// vmStatus is a line of a process's status, in KiB.
func vmStatus(t *testing.T, pid int, key string) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	require.NoError(t, err)
	for line := range strings.Lines(string(text)) {
		if word, ok := strings.CutPrefix(line, key+":"); ok {
			n, err := strconv.Atoi(strings.Fields(word)[0])
			require.NoError(t, err)
			return n
		}
	}
	require.Fail(t, "no "+key)
	return 0
}

// mounted prints what a program sees on a tree that is mounted by v9fs: in another
// guest, emulated as well, which reaches the server by slirp. So beside it the same
// program in the same guest measures the device's socket, led there by socat.
func (b *vsockBench) mounted() {
	t := b.t
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	port := ln.Addr().(*net.TCPAddr).Port
	require.NoError(t, ln.Close())
	socat := exec.Command("socat", "-b", strconv.Itoa(1<<18), fmt.Sprintf("TCP-LISTEN:%d,bind=127.0.0.1,fork,backlog=512,nodelay", port), "UNIX-CONNECT:"+b.hostSocket("web"))
	require.NoError(t, socat.Start())
	defer func() {
		_ = socat.Process.Kill() // an error is its end just now
		_ = socat.Wait()
	}()
	script := fmt.Sprintf(`#!/bin/sh
mkdir -p /n
mount -t 9p -o trans=tcp,port=%s,version=9p2000.L,access=any,cache=none,msize=%d 10.0.2.2 /n || exit 1
/peer socket 10.0.2.2:%d && /peer files /n/web
`, b.tcp[strings.LastIndexByte(b.tcp, '!')+1:], vsockMsize, port)
	kernel, initrd := guesttest.V9FS(t, "6.12", guesttest.Script(script), guest.File{Path: "/peer", Source: b.peer, Mode: 0o755})
	vm := guesttest.Start(t, guesttest.Config{
		Kernel: kernel, Initrd: initrd, Append: "vmfs.net=user", Memory: "512M", Deadline: 10 * time.Minute,
		Args: []string{"-netdev", "user,id=n0", "-device", "virtio-net-pci,netdev=n0"},
	})
	status := vm.Expect(regexp.MustCompile(`vmfs guest: script exited (\d+)`))
	require.Equal(t, "0", status[1], vm.Output())
	figures := make(map[string]bench.Figure)
	for line := range strings.Lines(vm.Output()) {
		var f struct {
			Way    string
			Figure bench.Figure
		}
		if strings.HasPrefix(line, "{") && json.Unmarshal([]byte(line), &f) == nil {
			require.Zero(t, f.Figure.Lost, "by %s: bytes are lost", f.Way)
			figures[figureKey(f.Figure.What, f.Way, f.Figure.Streams)] = f.Figure
		}
	}
	fmt.Printf("\n| in another guest, by slirp | streams | the socket by socat | v9fs | ratio |\n|---|---:|---:|---:|---:|\n")
	for _, what := range []string{bench.ToGuest, bench.FromGuest, bench.RoundTrip, bench.Connect} {
		for _, n := range []int{1, 64} {
			s, f := figures[figureKey(what, "socket", n)], figures[figureKey(what, "files", n)]
			if what == bench.ToGuest || what == bench.FromGuest {
				fmt.Printf("| %s | %d | %.1f MiB/s | %.1f MiB/s | %.2f |\n", what, n, s.MiBs, f.MiBs, f.MiBs/s.MiBs)
			} else {
				fmt.Printf("| %s | %d | %s | %s | %.2f |\n", what, n, show(s.P50), show(f.P50), float64(f.P50)/float64(s.P50))
			}
		}
	}
}

// direct is the way by the device's socket, with our own dialer.
type direct struct{ *vsock.Hybrid }

func (w direct) Open(port int) (io.ReadWriteCloser, error) { return w.Duplex(port) }

func (w direct) Duplex(port int) (bench.Stream, error) {
	c, err := w.DialVsock(context.Background(), port)
	if err != nil {
		return nil, err
	}
	return c.(vsock.Conn), nil
}

// tree is the way by 9P.
type tree struct{ *client.Client }

func (w tree) Open(port int) (io.ReadWriteCloser, error) {
	f, err := w.Client.Open(context.Background(), "web/vsock/"+strconv.Itoa(port), os.O_RDWR)
	if err != nil {
		return nil, err
	}
	return struct {
		io.ReadWriter
		io.Closer
	}{f.With(context.Background()), f}, nil
}

func (w tree) Duplex(port int) (bench.Stream, error) {
	return w.Connect(context.Background(), "web", uint32(port))
}

// program is the way through the standard streams of a program.
type program struct {
	command func(port int) *exec.Cmd
	greet   func(port int) (say, answer string) // what comes before the stream
}

// socat is the way by the device's socket with socat.
func (b *vsockBench) socat() bench.Way {
	return program{
		command: func(int) *exec.Cmd {
			return exec.Command("socat", "-b", strconv.Itoa(1<<18), "-t", "60", "STDIO", "UNIX-CONNECT:"+b.hostSocket("web"))
		},
		greet: func(port int) (string, string) { return fmt.Sprintf("CONNECT %d\n", port), "OK" },
	}
}

// rdwr is the way by the tree with the program as it is shipped.
func (b *vsockBench) rdwr() bench.Way {
	return program{command: func(port int) *exec.Cmd {
		cmd := exec.Command("vmfs", "rdwr", "web/vsock/"+strconv.Itoa(port))
		cmd.Env = append(os.Environ(), "VMFS_ADDR="+b.addr)
		return cmd
	}}
}

func (w program) Open(port int) (io.ReadWriteCloser, error) { return w.Duplex(port) }

func (w program) Duplex(port int) (bench.Stream, error) {
	c := &programStream{cmd: w.command(port)}
	var err error
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if c.out, err = c.cmd.StdoutPipe(); err != nil {
		return nil, err
	}
	c.cmd.Stderr = os.Stderr
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	if w.greet == nil {
		return c, nil
	}
	say, answer := w.greet(port)
	if _, err = io.WriteString(c.in, say); err == nil {
		var line []byte
		for err == nil && !bytes.HasSuffix(line, []byte{'\n'}) {
			var one [1]byte
			_, err = io.ReadFull(c.out, one[:])
			line = append(line, one[0])
		}
		if err == nil && !strings.HasPrefix(string(line), answer) {
			err = fmt.Errorf("answer %q", line)
		}
	}
	if err != nil {
		return nil, cmp.Or(c.Close(), err)
	}
	return c, nil
}

type programStream struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out io.ReadCloser
}

func (c *programStream) Read(p []byte) (int, error)  { return c.out.Read(p) }
func (c *programStream) Write(p []byte) (int, error) { return c.in.Write(p) }
func (c *programStream) CloseWrite() error           { return c.in.Close() }

// Close ends the program.
func (c *programStream) Close() error {
	_ = c.in.Close()
	_ = c.cmd.Process.Kill() // both fail where it has ended
	_ = c.cmd.Wait()
	return nil
}

// buildPeer compiles the program that runs in guests.
func buildPeer(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "peer")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", path, "vmfs/vsock/bench/peer")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	return path
}

// servePeer brings the program into the guest and has it serve there.
func (b *vsockBench) servePeer() {
	t := b.t
	f, err := os.Open(b.peer)
	require.NoError(t, err)
	defer f.Close()
	cmd := exec.Command("vmfs", "exec", "web", "sh", "-c", "cat >/tmp/peer && chmod +x /tmp/peer && { setsid /tmp/peer serve </dev/null >/dev/null 2>&1 & }")
	cmd.Env = append(os.Environ(), "VMFS_ADDR="+b.addr)
	cmd.Stdin = f
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	require.Eventually(t, func() bool {
		_, _, status := b.vmfs("", "cat", "web/vsock/"+strconv.Itoa(bench.PortHello))
		return status == 0
	}, patience, 50*time.Millisecond, "the program in the guest does not serve")
}

// forwarded returns free ports of the host that are to lead to the services'.
func forwarded(t *testing.T) (ports bench.TCP, config string) {
	t.Helper()
	ports = make(bench.TCP)
	for _, port := range []int{bench.PortSource, bench.PortSink, bench.PortCheck, bench.PortEcho, bench.PortHello} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer ln.Close() // all are taken until all are known
		ports[port] = ln.Addr().String()
		config += fmt.Sprintf(",forward:tcp:127.0.0.1:%d:%d", ln.Addr().(*net.TCPAddr).Port, port)
	}
	return ports, config
}
