package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"vmfs/guest/guesttest"
)

// Rounds of the measurements in a test host, where all takes its time.
const (
	chPauses    = 100
	chProcesses = 20
	chStarts    = 3
	chSnapshots = 5
)

// TestBenchCloudHypervisor measures vmfs against doing the same by Cloud Hypervisor's
// API, on the same VM, and prints the tables of docs/benchmarks.md.
func TestBenchCloudHypervisor(t *testing.T) {
	if os.Getenv("VMFS_BENCH") != "cloud-hypervisor" {
		t.Skip("takes minutes and a KVM host: make bench-cloud-hypervisor")
	}
	program := os.Getenv("VMFS_CLOUD_HYPERVISOR")
	require.NotEmpty(t, program, "set $VMFS_CLOUD_HYPERVISOR")
	remote := cmp.Or(os.Getenv("VMFS_CH_REMOTE"), filepath.Join(filepath.Dir(program), "ch-remote"))
	require.FileExists(t, remote, "ch-remote is measured beside it: set $VMFS_CH_REMOTE")
	useBuilt(t)
	version, err := exec.Command(program, "--version").Output()
	require.NoError(t, err)
	kernel, initrd := guesttest.Image(t)
	fmt.Printf("\n%s on KVM, %s, %d CPU, %s; a guest of 128 MiB\n",
		bytes.TrimSpace(version), strings.TrimSuffix(hostKernel(), "\n"), runtime.NumCPU(), runtime.Version())

	s := newServer(t)
	s.start()
	s.makeVM("web", fmt.Sprintf("hypervisor=cloud-hypervisor\nmemory=128M\nkernel=%s\ninitrd=%s\nargs='console=ttyS0 quiet'\n", kernel, initrd))
	b := &chBench{
		vmBench: vmBench{server: s, dir: filepath.Join(s.state, "vms", "web"), member: s.attach()},
		program: program, remote: remote,
	}
	defer b.member.Close()
	b.socket = filepath.Join(b.dir, "run", "ch.sock")
	b.startVM()
	b.pauseTable()
	b.snapshotTable()
	b.startTable()
}

// A chBench is the VM "web" of a server, and the API socket of its VMM.
type chBench struct {
	vmBench
	program, remote, socket string
}

// curl makes one call of the API by a process.
func (b *chBench) curl(socket, call, body string) {
	args := []string{"-sSf", "--unix-socket", socket, "-X", "PUT", "http://localhost/api/v1/" + call}
	if body != "" {
		args = append(args, "-H", "Content-Type: application/json", "-d", body)
	}
	b.process("curl", args...)
}

// chRemote makes one call of the API by a process.
func (b *chBench) chRemote(socket string, args ...string) {
	b.process(b.remote, append([]string{"--api-socket", socket}, args...)...)
}

func (b *chBench) process(name string, args ...string) {
	b.t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	require.NoError(b.t, err, "%s %q: %s", name, args, out)
}

// pauseTable measures the ways to pause.
func (b *chBench) pauseTable() {
	t := b.t
	c := b.openCtl()
	defer c.ctl.Close()
	api := dialAPI(t, b.socket)
	defer api.Close()
	c.pauses(chPauses, func() { api.put(t, "vm.pause") })
	var byVMFS, byCurl, byRemote samples
	for range chProcesses {
		byVMFS.time(func() { b.must("write", "web/ctl", "pause") })
		c.say("resume")
		byRemote.time(func() { b.chRemote(b.socket, "pause") })
		c.settle("paused")
		byCurl.time(func() { b.curl(b.socket, "vm.pause", "") })
		c.settle("paused")
	}
	c.rows("bare `vm.pause`, connection open", "the bare call", c.bare.median())
	row("`ch-remote pause`, a process", byRemote, "", 0)
	row("`curl` of `vm.pause`, a process", byCurl, "`ch-remote`", byRemote.median())
	row("`vmfs write web/ctl pause`, a process", byVMFS, "`ch-remote`", byRemote.median())
}

// snapshotTable measures the ways to snapshot the running VM, which are the same three
// calls: what vmfs makes one by itself takes three processes otherwise.
func (b *chBench) snapshotTable() {
	t := b.t
	dir := filepath.Join(b.server.dir, "snapshot")
	var byVMFS, open, byCurl, byRemote samples
	fresh := func() {
		require.NoError(t, os.RemoveAll(dir))
		require.NoError(t, os.Mkdir(dir, 0o777))
		require.NoError(t, os.Chmod(dir, 0o777)) // the VMM may be another user's
	}
	settle := func() { require.NoError(t, b.member.send("web/ctl", "wait running 10s")) }
	for range chSnapshots {
		byVMFS.time(func() { b.must("write", "web/ctl", "snapshot", "one") })
		b.must("rmdir", "web/snapshots/one")
		open.time(func() { require.NoError(t, b.member.send("web/ctl", "snapshot one")) })
		b.must("rmdir", "web/snapshots/one")
		fresh()
		byRemote.time(func() {
			b.chRemote(b.socket, "pause")
			b.chRemote(b.socket, "snapshot", "file://"+dir)
			b.chRemote(b.socket, "resume")
		})
		settle()
		fresh()
		byCurl.time(func() {
			b.curl(b.socket, "vm.pause", "")
			b.curl(b.socket, "vm.snapshot", `{"destination_url":"file://`+dir+`"}`)
			b.curl(b.socket, "vm.resume", "")
		})
		settle()
	}
	require.NoError(t, os.RemoveAll(dir))
	tableHead("a snapshot of a running guest of 128 MiB")
	row("`curl`: pause, snapshot, resume", byCurl, "", 0)
	row("`ch-remote`: pause, snapshot, resume", byRemote, "`curl`", byCurl.median())
	row("`snapshot one`, ctl opened for it", open, "`curl`", byCurl.median())
	row("`vmfs write web/ctl snapshot one`, a process", byVMFS, "`ch-remote`", byRemote.median())
}

// startTable measures the ways to start.
func (b *chBench) startTable() {
	t := b.t
	config, log := b.config()
	body, err := os.ReadFile(config)
	require.NoError(t, err)
	require.NoError(t, b.member.send("web/ctl", "kill"))
	var byVMFS, byCurl, byRemote, answered samples
	for range chStarts {
		b.startByVMFS(&answered, &byVMFS)

		b.byHand(&byRemote, log, func(socket string) {
			b.chRemote(socket, "create", config)
			b.chRemote(socket, "boot")
		})
		b.byHand(&byCurl, log, func(socket string) {
			b.curl(socket, "vm.create", string(body))
			b.curl(socket, "vm.boot", "")
		})
	}
	tableHead("start, until the guest is ready")
	row("the program, and `curl`: create, boot", byCurl, "", 0)
	row("the program, and `ch-remote`: create, boot", byRemote, "`curl`", byCurl.median())
	row("`vmfs write web/ctl start`", byVMFS, "`curl`", byCurl.median())
	row("— until it has answered", answered, "", 0)
	over := byVMFS.median() - byCurl.median()
	fmt.Printf("\nStarting by vmfs takes %s longer than by `curl`, %.2f times as long (least of each: %s).\n",
		show(over), float64(byVMFS.median())/float64(byCurl.median()), show(byVMFS.at(0)-byCurl.at(0)))
}

// byHand times a start of a VMM whose API is called by boot, and ends it.
func (b *chBench) byHand(s *samples, log string, boot func(socket string)) {
	t := b.t
	require.NoError(t, os.WriteFile(log, nil, 0o600))
	socket := filepath.Join(b.server.dir, "by-hand.sock")
	_ = os.Remove(socket) // that of the last one
	begin := time.Now()
	cmd := exec.Command(b.program, "--api-socket", "path="+socket)
	cmd.Stderr = os.Stderr
	require.NoError(t, cmd.Start())
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	for end := begin.Add(patience); ; time.Sleep(time.Millisecond) {
		c, err := net.Dial("unix", socket)
		if err == nil {
			c.Close()
			break
		}
		require.True(t, time.Now().Before(end), "no API socket: %v", err)
	}
	boot(socket)
	awaitReady(t, log, 0)
	*s = append(*s, time.Since(begin))
}

// config writes the VMM's own configuration of the running VM to a file, with the
// console in a file of its own. It returns both files.
func (b *chBench) config() (config, log string) {
	t := b.t
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", b.socket)
	}}}
	defer client.CloseIdleConnections()
	res, err := client.Get("http://localhost/api/v1/vm.info")
	require.NoError(t, err)
	defer res.Body.Close()
	var info struct{ Config map[string]any }
	require.NoError(t, json.NewDecoder(res.Body).Decode(&info))
	config, log = filepath.Join(b.server.dir, "by-hand.json"), filepath.Join(b.server.dir, "by-hand.log")
	info.Config["serial"] = map[string]any{"mode": "File", "file": log}
	text, err := json.Marshal(info.Config)
	require.NoError(t, err)
	require.NotContains(t, string(text), b.dir+"/", "nothing is left of the VM's own directory")
	require.NoError(t, os.WriteFile(config, text, 0o600))
	return config, log
}

// A bareAPI is a connection to a VMM's API that is kept open. It knows as little HTTP
// as it can, and is the faster for it.
type bareAPI struct {
	net.Conn
	buf []byte
}

func dialAPI(t *testing.T, socket string) *bareAPI {
	t.Helper()
	c, err := net.Dial("unix", socket)
	require.NoError(t, err)
	return &bareAPI{Conn: c, buf: make([]byte, 4096)}
}

// put makes a call without a body whose answer has none.
func (a *bareAPI) put(t *testing.T, call string) {
	t.Helper()
	_, err := io.WriteString(a, "PUT /api/v1/"+call+" HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
	require.NoError(t, err)
	for n := 0; ; {
		k, err := a.Read(a.buf[n:])
		require.NoError(t, err)
		n += k
		if bytes.HasSuffix(a.buf[:n], []byte("\r\n\r\n")) {
			require.Contains(t, string(a.buf[:n]), " 204 ")
			return
		}
	}
}
