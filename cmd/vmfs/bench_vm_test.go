package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"vmfs/client"
	"vmfs/guest/guesttest"
	"vmfs/machine/rc"
)

// Rounds of the measurements. Those that are compared take turns.
const (
	benchPauses    = 300
	benchProcesses = 60
	benchStarts    = 11
	benchSnapshots = 7
)

// TestBenchVM measures vmfs against doing the same by hand and prints the tables
// of docs/benchmarks.md: those that $VMFS_BENCH names, of pause, start, snapshot and many.
func TestBenchVM(t *testing.T) {
	tables := os.Getenv("VMFS_BENCH")
	if tables == "" {
		t.Skip("takes minutes: make bench-vm, or VMFS_BENCH=pause,start,snapshot,many go test -count=1 -run BenchVM -v ./cmd/vmfs")
	}
	useBuilt(t)
	qemu, err := exec.Command("qemu-system-x86_64", "--version").Output()
	require.NoError(t, err)
	first, _, _ := strings.Cut(string(qemu), "\n")
	kernel, initrd := guesttest.Image(t)
	fmt.Printf("\n%s under TCG, %s, %d CPUs, %s; a guest of 128 MiB\n", first, strings.TrimSuffix(hostKernel(), "\n"), runtime.NumCPU(), runtime.Version())

	s := newServer(t)
	s.start()
	s.makeVM("web", fmt.Sprintf("memory=128M\nkernel=%s\ninitrd=%s\nargs='console=ttyS0 quiet'\nqemu.accel=tcg\n", kernel, initrd))
	b := &vmBench{server: s, dir: filepath.Join(s.state, "vms", "web"), member: s.attach()}
	defer b.member.Close()
	b.lv = startLibvirt(t, kernel, initrd)

	if strings.Contains(tables, "pause") {
		b.pauseTable()
	}
	if strings.Contains(tables, "start") {
		b.startTable()
	}
	if strings.Contains(tables, "snapshot") {
		b.snapshotTable(kernel, initrd)
	}
	if strings.Contains(tables, "many") {
		manyTable(newServer(t))
	}
}

// manyTable measures what TestMany does.
func manyTable(s *server) {
	many := runMany(s)
	fmt.Printf("\n| %d VMs at once | |\n|---|---:|\n", manyVMs)
	for _, row := range []struct {
		what string
		d    time.Duration
	}{
		{"all started, and each paused as soon as it runs", many.start},
		{"`vmfs ls`", many.ls},
		{"`vmfs cat` of all `state` files", many.cat},
		{"all found again by the next server, from its exec to its first line", many.restart},
	} {
		fmt.Printf("| %s | %s |\n", row.what, show(row.d))
	}
}

// useBuilt makes "vmfs" the program as it is shipped instead of the test's binary.
func useBuilt(t *testing.T) {
	if os.Getenv("VMFS_TESTHOST") != "" { // to build there takes minutes
		dir, err := filepath.Abs("../../bin")
		require.NoError(t, err)
		require.FileExists(t, filepath.Join(dir, "vmfs"), "run `make build`")
		t.Setenv("PATH", dir+string(filepath.ListSeparator)+os.Getenv("PATH"))
		return
	}
	dir := t.TempDir()
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", filepath.Join(dir, "vmfs"), ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	t.Setenv("PATH", dir+string(filepath.ListSeparator)+os.Getenv("PATH"))
}

func hostKernel() string {
	b, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return "Linux " + string(b)
}

// A vmBench is the VM "web" of a server and what it is measured with.
type vmBench struct {
	*server
	dir    string // the VM's
	member attached
	lv     *libvirt // nil where there is none
}

// samples are the times of one thing.
type samples []time.Duration

func (s *samples) time(f func()) {
	begin := time.Now()
	f()
	*s = append(*s, time.Since(begin))
}

func (s samples) at(q float64) time.Duration {
	if len(s) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s))
	return sorted[int(q*float64(len(sorted)-1)+0.5)]
}

func (s samples) median() time.Duration { return s.at(0.5) }

func show(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return fmt.Sprintf("%.0f µs", float64(d)/1e3)
	case d < time.Second:
		return fmt.Sprintf("%.1f ms", float64(d)/1e6)
	}
	return fmt.Sprintf("%.2f s", d.Seconds())
}

// row prints a line of a table.
func row(what string, s samples, of string, base time.Duration) {
	ratio := ""
	if base != 0 {
		ratio = fmt.Sprintf("%.2f× %s", float64(s.median())/float64(base), of)
	}
	fmt.Printf("| %s | %s | %s to %s | %d | %s |\n", what, show(s.median()), show(s.at(0.1)), show(s.at(0.9)), len(s), ratio)
}

func tableHead(what string) {
	fmt.Printf("\n| %s | median | 10 %% to 90 %% | n | ratio |\n|---|---:|---:|---:|---|\n", what)
}

// A ctlBench is a VM's ctl that is kept open, and what it is measured with.
type ctlBench struct {
	t    *testing.T
	ctl  *client.File
	echo net.Conn
	// The times of a bare call of the VMM's API, of a pause by the ctl, of a 9P write that does
	// nothing, and of a Unix socket's echo.
	bare, open, comment, echoed samples
}

// openCtl opens the ctl, which is to be closed.
func (b *vmBench) openCtl() *ctlBench {
	ctl, err := b.member.Open(b.t.Context(), "web/ctl", os.O_WRONLY)
	require.NoError(b.t, err)
	return &ctlBench{t: b.t, ctl: ctl, echo: startEcho(b.t)}
}

func (c *ctlBench) say(verb string) {
	_, err := c.ctl.Write(c.t.Context(), []byte(verb+"\n"))
	require.NoError(c.t, err)
}

// settle waits for a state that came by another way, and has the VM run.
func (c *ctlBench) settle(state string) {
	c.say("wait " + state + " 10s")
	c.say("resume")
}

// pauses measures a pause beside a bare one and what is least for any, which take turns.
func (c *ctlBench) pauses(rounds int, bare func()) {
	const message = "pause\n" // as long as the others'
	buf := make([]byte, len(message))
	for range rounds {
		c.bare.time(bare)
		c.settle("paused")
		c.open.time(func() { c.say("pause") })
		c.say("resume")
		c.echoed.time(func() {
			_, err := io.WriteString(c.echo, message)
			require.NoError(c.t, err)
			_, err = io.ReadFull(c.echo, buf)
			require.NoError(c.t, err)
		})
		c.comment.time(func() { c.say("# nothing") })
	}
}

// rows begins the table of the ways to pause.
func (c *ctlBench) rows(bare, of string, floor time.Duration) {
	tableHead("pause")
	row(bare, c.bare, "", 0)
	row("a Unix socket's echo", c.echoed, "", 0)
	row("a 9P write that does nothing, ctl open", c.comment, "", 0)
	row("`pause`, ctl open", c.open, of, floor)
}

// pauseTable measures the ways to pause.
func (b *vmBench) pauseTable() {
	t := b.t
	b.startVM()
	if b.lv != nil {
		b.lv.create(t)
		awaitReady(t, b.lv.console, 0)
		defer b.lv.virsh(t, "destroy", "web")
	}
	c := b.openCtl()
	defer c.ctl.Close()
	mon := dialMonitor(t, filepath.Join(b.dir, "run", "monitor.sock"))
	defer mon.Close()
	c.pauses(benchPauses, func() { mon.execute(t, "stop") })
	var whole, virsh samples
	for range benchProcesses {
		whole.time(func() { b.must("write", "web/ctl", "pause") })
		c.say("resume")
		if b.lv != nil {
			virsh.time(func() { b.lv.virsh(t, "suspend", "web") })
			b.lv.virsh(t, "resume", "web")
		}
	}
	c.rows("bare QMP `stop`, connection open", "QMP and echo", c.bare.median()+c.echoed.median())
	if b.lv != nil {
		row("`virsh suspend`, a process", virsh, "", 0)
	}
	row("`vmfs write web/ctl pause`, a process", whole, "`virsh suspend`", virsh.median())
	c.say("kill")
}

// startTable measures the ways to start.
func (b *vmBench) startTable() {
	t := b.t
	script, log := b.script()
	var byVMFS, byScript, byVirsh, answered samples
	for range benchStarts {
		b.startByVMFS(&answered, &byVMFS)

		require.NoError(t, os.WriteFile(log, nil, 0o600))
		begin := time.Now()
		cmd := exec.Command("sh", script)
		cmd.Stderr = os.Stderr
		require.NoError(t, cmd.Start())
		awaitReady(t, log, 0)
		byScript = append(byScript, time.Since(begin))
		_ = cmd.Process.Kill() // it runs QEMU itself by now
		_ = cmd.Wait()

		if b.lv != nil {
			begin = time.Now()
			b.lv.create(t)
			awaitReady(t, b.lv.console, 0)
			byVirsh = append(byVirsh, time.Since(begin))
			b.lv.virsh(t, "destroy", "web")
		}
	}
	tableHead("start, until the guest is ready")
	row("a shell script with QEMU's line", byScript, "", 0)
	row("`vmfs write web/ctl start`", byVMFS, "the script", byScript.median())
	row("— until it has answered", answered, "", 0)
	if b.lv != nil {
		row("`virsh create web.xml`", byVirsh, "the script", byScript.median())
	}
	over := byVMFS.median() - byScript.median()
	fmt.Printf("\nStarting by vmfs takes %s longer than by the script (least of each: %s).\n", show(over), show(byVMFS.at(0)-byScript.at(0)))
}

// snapshotTable measures what it takes to save a guest with a GiB of memory, most of it
// in use, beside writing as much to the same disk.
func (b *vmBench) snapshotTable(kernel, initrd string) {
	t := b.t
	b.makeVM("big", fmt.Sprintf("memory=1G\nkernel=%s\ninitrd=%s\nargs='console=ttyS0 quiet'\nqemu.accel=tcg\n", kernel, initrd))
	dir := filepath.Join(b.state, "vms", "big")
	console := filepath.Join(dir, "console.log")
	b.must("write", "big/ctl", "start")
	awaitReady(t, console, 0)
	_, errs, status := b.vmfs("mkdir /big && mount -t tmpfs -o size=900m big /big && "+
		"dd if=/dev/zero bs=1M count=780 2>/dev/null | tr '\\0' x >/big/file && echo fil''led\n", "write", "big/console")
	require.Zero(t, status, errs)
	require.Eventually(t, func() bool {
		text, err := os.ReadFile(console)
		return err == nil && bytes.Contains(text, []byte("filled"))
	}, guesttest.Deadline, 20*time.Millisecond, "the guest does not fill its memory")

	var saved, written samples
	var size int64
	for range benchSnapshots {
		saved.time(func() { b.must("write", "big/ctl", "snapshot", "one") })
		size = lengthOf(filepath.Join(dir, "snapshots", "one", "vmm", "qemu-memory"))
		b.must("rmdir", "big/snapshots/one")
		written.time(func() { writeFile(t, filepath.Join(dir, "written"), size) })
		require.NoError(t, os.Remove(filepath.Join(dir, "written")))
	}
	require.NoError(t, b.member.send("big/ctl", "kill"))
	tableHead(fmt.Sprintf("a snapshot of a guest of 1 GiB, %d MiB to be saved", size>>20))
	row("a file of that size written and synced", written, "", 0)
	row("`vmfs write big/ctl snapshot one`, a process", saved, "the file", written.median())
}

// writeFile writes size bytes to a new file and has them on the disk.
func writeFile(t *testing.T, path string, size int64) {
	t.Helper()
	f, err := os.Create(path)
	require.NoError(t, err)
	defer f.Close()
	buf := bytes.Repeat([]byte("x"), 1<<20)
	for ; size > 0; size -= int64(len(buf)) {
		_, err = f.Write(buf[:min(size, int64(len(buf)))])
		require.NoError(t, err)
	}
	require.NoError(t, f.Sync())
}

// startVM starts the VM and waits for its guest.
func (b *vmBench) startVM() {
	console := filepath.Join(b.dir, "console.log")
	from := lengthOf(console)
	require.NoError(b.t, b.member.send("web/ctl", "start"))
	awaitReady(b.t, console, from)
}

// startByVMFS measures a start until it has answered, and until the guest is ready, and ends
// the VM.
func (b *vmBench) startByVMFS(answered, ready *samples) {
	console := filepath.Join(b.dir, "console.log")
	begin := time.Now()
	from := lengthOf(console)
	b.must("write", "web/ctl", "start")
	*answered = append(*answered, time.Since(begin))
	awaitReady(b.t, console, from)
	*ready = append(*ready, time.Since(begin))
	require.NoError(b.t, b.member.send("web/ctl", "kill"))
}

func lengthOf(path string) int64 {
	fi, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return fi.Size()
}

// awaitReady waits until the guest says on its console that it is up. It looks
// often: a notice would come no sooner.
func awaitReady(t *testing.T, path string, from int64) {
	t.Helper()
	buf := make([]byte, 64<<10)
	for end := time.Now().Add(guesttest.Deadline); ; time.Sleep(time.Millisecond) {
		require.True(t, time.Now().Before(end), "the guest is not ready: %s", path)
		f, err := os.Open(path)
		if err != nil {
			continue
		}
		n, _ := f.ReadAt(buf, from)
		f.Close()
		if guesttest.Ready.Match(buf[:n]) {
			return
		}
	}
}

// script writes a shell script that starts QEMU as vmfs does, but with sockets of
// its own making and with its CPUs running at once. It returns the script and the
// file that has the console's output.
func (b *vmBench) script() (script, log string) {
	t := b.t
	b.startVM()
	text, err := os.ReadFile(filepath.Join(b.dir, "run", "qemu.json"))
	require.NoError(t, err)
	var rec struct {
		Binary string
		Args   []string
	}
	require.NoError(t, json.Unmarshal(text, &rec))
	require.NoError(t, b.member.send("web/ctl", "kill"))

	dir := filepath.Join(b.server.dir, "script")
	require.NoError(t, os.Mkdir(dir, 0o700))
	script, log = filepath.Join(dir, "start"), filepath.Join(dir, "console.log")
	inherited := regexp.MustCompile(`\bid=(\w+),fd=\d+\b`)
	line := "exec " + rc.Quote(rec.Binary)
	for _, a := range rec.Args {
		if a == "-S" {
			continue
		}
		a = inherited.ReplaceAllString(a, "id=$1,path="+dir+"/$1.sock")
		a = strings.ReplaceAll(a, filepath.Join(b.dir, "run"), dir)
		a = strings.ReplaceAll(a, filepath.Join(b.dir, "console.log"), log)
		line += " '" + strings.ReplaceAll(a, "'", `'\''`) + "'"
	}
	require.NotContains(t, line, b.dir+"/", "nothing is left of the VM's own directory")
	require.NoError(t, os.WriteFile(script, []byte(line+"\n"), 0o700))
	return script, log
}

// A monitor is a bare connection to QEMU's second monitor.
type monitor struct {
	net.Conn
	buf []byte
}

func dialMonitor(t *testing.T, path string) *monitor {
	t.Helper()
	c, err := net.Dial("unix", path)
	require.NoError(t, err)
	m := &monitor{Conn: c, buf: make([]byte, 64<<10)}
	_, err = c.Read(m.buf) // the greeting
	require.NoError(t, err)
	m.execute(t, "qmp_capabilities")
	return m
}

// execute gives an order and waits for the answer. It knows no JSON, and is the
// faster for it.
func (m *monitor) execute(t *testing.T, order string) string {
	t.Helper()
	_, err := io.WriteString(m, `{"execute":"`+order+`"}`+"\n")
	require.NoError(t, err)
	for n := 0; ; {
		k, err := m.Read(m.buf[n:])
		require.NoError(t, err)
		n += k
		require.NotContains(t, string(m.buf[:n]), `"error"`)
		if i := bytes.Index(m.buf[:n], []byte(`"return"`)); i >= 0 && bytes.HasSuffix(m.buf[:n], []byte("}\r\n")) {
			return string(m.buf[i:n])
		}
	}
}

// startEcho runs an echo on a Unix socket in a process of its own, as vmfs and
// QEMU are, and connects to it.
func startEcho(t *testing.T) net.Conn {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "vmfs")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "echo")
	cmd := exec.Command(os.Args[0], "-test.run=^TestBenchEcho$")
	cmd.Env = append(os.Environ(), "VMFS_BENCH_ECHO="+path)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // an error is its end just now
		_ = cmd.Wait()
	})
	var c net.Conn
	require.Eventually(t, func() bool { c, err = net.Dial("unix", path); return err == nil }, patience, 10*time.Millisecond)
	t.Cleanup(func() { c.Close() })
	return c
}

// TestBenchEcho is the process that startEcho starts.
func TestBenchEcho(t *testing.T) {
	path := os.Getenv("VMFS_BENCH_ECHO")
	if path == "" {
		t.Skip("is a part of TestBenchVM")
	}
	ln, err := net.Listen("unix", path)
	require.NoError(t, err)
	c, err := ln.Accept()
	require.NoError(t, err)
	buf := make([]byte, 4096)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return
		}
		_, err = c.Write(buf[:n])
		require.NoError(t, err)
	}
}

// A libvirt is a libvirtd of the test's own with a domain like the VM.
type libvirt struct {
	uri     string
	env     []string
	domain  string // its XML
	console string // the file with the console's output
}

// startLibvirt runs a libvirtd for one user's session, below a directory of its
// own. Without one it says why and returns nil.
func startLibvirt(t *testing.T, kernel, initrd string) *libvirt {
	t.Helper()
	daemon, err := exec.LookPath("libvirtd")
	if err != nil {
		daemon = "/usr/sbin/libvirtd"
	}
	_, err = os.Stat(daemon)
	if _, verr := exec.LookPath("virsh"); err != nil || verr != nil {
		fmt.Println("\nlibvirt is missing, and so are its lines: apt-get install --no-install-recommends libvirt-daemon libvirt-clients")
		return nil
	}
	dir, err := os.MkdirTemp("/tmp", "vmfslv")
	require.NoError(t, err)
	require.NoError(t, os.Chmod(dir, 0o755))
	t.Cleanup(func() { os.RemoveAll(dir) })
	lv := &libvirt{
		uri:     "qemu+unix:///session?socket=" + dir + "/run/libvirt/libvirt-sock",
		domain:  filepath.Join(dir, "web.xml"),
		console: filepath.Join(dir, "home", "console.log"),
		env:     append(os.Environ(), "HOME="+dir+"/home"),
	}
	for name, from := range map[string]string{"vmlinuz": kernel, "initrd": initrd} {
		b, err := os.ReadFile(from)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), b, 0o644))
	}
	for v, d := range map[string]string{"XDG_RUNTIME_DIR": "run", "XDG_CONFIG_HOME": "config", "XDG_CACHE_HOME": "cache", "XDG_DATA_HOME": "data", "": "home"} {
		d = filepath.Join(dir, d)
		require.NoError(t, os.Mkdir(d, 0o700))
		if os.Geteuid() == 0 {
			require.NoError(t, os.Chown(d, nobody, nobody))
		}
		if v != "" {
			lv.env = append(lv.env, v+"="+d)
		}
	}
	xml := fmt.Sprintf(`<domain type='qemu'>
  <name>web</name><memory unit='MiB'>128</memory><vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>%[1]s/vmlinuz</kernel><initrd>%[1]s/initrd</initrd><cmdline>console=ttyS0 quiet</cmdline>
  </os>
  <features><acpi/></features><cpu mode='maximum'/>
  <devices>
    <serial type='file'><source path='%[2]s'/></serial>
    <memballoon model='virtio'/><rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
  </devices>
</domain>
`, dir, lv.console)
	require.NoError(t, os.WriteFile(lv.domain, []byte(xml), 0o644))

	var said logBuffer
	cmd := exec.Command(daemon)
	if os.Geteuid() == 0 { // a session is not root's
		cmd = exec.Command("setpriv", fmt.Sprintf("--reuid=%d", nobody), fmt.Sprintf("--regid=%d", nobody), "--clear-groups", daemon)
	}
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = lv.env, "/", &said, &said
	require.NoError(t, cmd.Start())
	done := make(chan struct{})
	go func() { _ = cmd.Wait(); close(done) }()
	t.Cleanup(func() {
		out, _ := lv.run("destroy", "web") // fails where it does not run
		_ = cmd.Process.Signal(os.Interrupt)
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			_ = cmd.Process.Kill()
			<-done
		}
		if t.Failed() {
			t.Logf("libvirt: %s\n%s", out, &said)
		}
	})
	var out string
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		if out, err = lv.run("version", "--daemon"); err == nil {
			break
		}
		select {
		case <-done:
			end = time.Time{}
		default:
		}
		if time.Now().After(end) {
			fmt.Printf("\nlibvirtd cannot run here, and its lines are missing: %v: %s%s\n", err, out, &said)
			return nil
		}
	}
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, "Using library") || strings.HasPrefix(line, "Running against daemon") {
			fmt.Print(line)
		}
	}
	return lv
}

// nobody is a user who is not root, on every system.
const nobody = 65534

func (lv *libvirt) run(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "virsh", append([]string{"-q", "-c", lv.uri}, args...)...)
	cmd.Env = lv.env
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (lv *libvirt) virsh(t *testing.T, args ...string) {
	t.Helper()
	out, err := lv.run(args...)
	require.NoError(t, err, "virsh %q: %s", args, out)
}

// create starts the domain anew.
func (lv *libvirt) create(t *testing.T) {
	t.Helper()
	_ = os.Remove(lv.console) // not there the first time
	lv.virsh(t, "create", lv.domain)
}
