package guesttest

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// Deadline is how long Expect and Wait wait. A boot takes three to five seconds
// under emulation on an idle machine.
const Deadline = 90 * time.Second

// Ready is the line that the agent prints when the guest is up.
var Ready = regexp.MustCompile(`vmfs guest ready: linux (\S+), (\d+) cpus, (\d+) MiB`)

// Config says how to boot a guest. Kernel and Initrd must be set.
type Config struct {
	Kernel, Initrd string
	Append         string   // added to the kernel command line
	Memory         string   // of -m; "" is 256M
	Console        string   // "" is ttyS0, a serial line; hvc0 is a virtio console
	Args           []string // more arguments for QEMU
	// Deadline is how long Expect and Wait wait; 0 is the package's.
	Deadline time.Duration
}

// VM is a running QEMU with the guest's console on its standard streams.
type VM struct {
	t        testing.TB
	deadline time.Duration
	cmd      *exec.Cmd
	stdin    io.WriteCloser
	qmp      string
	exited   chan struct{} // closed once the process has been waited for; err is set then
	err      error

	mu     sync.Mutex // guards out, seen, grown
	out    []byte     // all that came from the console
	seen   int        // Expect looks from here
	grown  chan struct{}
	stderr bytes.Buffer // read only after exited
}

// Start boots a guest under QEMU's emulation. The test's end kills it if it
// still runs.
func Start(t testing.TB, c Config) *VM {
	t.Helper()
	if runtime.GOARCH != "amd64" {
		Missing(t, "these guests run on amd64 only: on "+runtime.GOARCH+" there is no such image")
	}
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		Missing(t, "qemu-system-x86_64 is not installed: `apt-get install qemu-system-x86`")
	}
	dir, err := os.MkdirTemp("/tmp", "vmfs")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if c.Memory == "" {
		c.Memory = "256M"
	}
	v := &VM{t: t, deadline: cmp.Or(c.Deadline, Deadline), qmp: filepath.Join(dir, "qmp"), exited: make(chan struct{}), grown: make(chan struct{})}
	console := []string{"-serial", "stdio"}
	switch c.Console {
	case "":
		c.Console = "ttyS0"
	case "hvc0":
		console = []string{"-chardev", "stdio,id=con", "-device", "virtio-serial-pci", "-device", "virtconsole,chardev=con"}
	}
	args := append([]string{
		// One thread for all vCPUs: where each has its own, QEMU 7.2 now and then runs the
		// breakpoint that Linux puts over code it is changing after it is gone, and the
		// guest panics (int3 in a static key).
		"-machine", "q35", "-accel", "tcg,thread=single", "-cpu", "max", "-m", c.Memory,
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-qmp", "unix:" + v.qmp + ",server=on,wait=off",
		"-kernel", c.Kernel, "-initrd", c.Initrd,
		// The check of the timer fails on a very busy host.
		"-append", strings.TrimSpace("console=" + c.Console + " panic=-1 quiet no_timer_check " + c.Append),
	}, append(console, c.Args...)...)
	v.cmd = exec.Command(qemu, args...)
	v.cmd.Stderr = &v.stderr
	if v.stdin, err = v.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	stdout, err := v.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := v.cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", qemu, err)
	}
	go v.read(stdout)
	t.Cleanup(v.kill)
	return v
}

// read collects the console until QEMU ends, and waits for it.
func (v *VM) read(r io.Reader) {
	buf := make([]byte, 4096)
	for {
		n, err := r.Read(buf)
		v.mu.Lock()
		v.out = append(v.out, bytes.ReplaceAll(buf[:n], []byte("\r"), nil)...)
		close(v.grown)
		v.grown = make(chan struct{})
		v.mu.Unlock()
		if err != nil {
			break
		}
	}
	v.err = v.cmd.Wait()
	close(v.exited)
}

func (v *VM) kill() {
	select {
	case <-v.exited:
		return
	default:
	}
	_ = v.cmd.Process.Kill() // an error is its end just now
	<-v.exited
}

// Output returns all that came from the console, without carriage returns.
func (v *VM) Output() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return string(v.out)
}

// Type sends keys to the console.
func (v *VM) Type(s string) {
	v.t.Helper()
	if _, err := io.WriteString(v.stdin, s); err != nil {
		v.fatalf("type %q: %v", s, err)
	}
}

// Expect waits for the console to show what the expression matches, behind what
// the last Expect matched, and returns the match and its groups. The test fails
// if the deadline or the guest's end comes first.
func (v *VM) Expect(re *regexp.Regexp) []string {
	v.t.Helper()
	timeout := time.NewTimer(v.deadline)
	defer timeout.Stop()
	for over := false; ; {
		v.mu.Lock()
		rest := v.out[v.seen:]
		loc := re.FindSubmatchIndex(rest)
		var groups []string
		if loc != nil {
			for i := 0; i < len(loc); i += 2 {
				if loc[i] < 0 {
					groups = append(groups, "")
					continue
				}
				groups = append(groups, string(rest[loc[i]:loc[i+1]]))
			}
			v.seen += loc[1]
		}
		grown := v.grown
		v.mu.Unlock()
		if loc != nil {
			return groups
		}
		if over {
			v.fatalf("the guest ended without %q on its console", re)
		}
		select {
		case <-grown:
		case <-v.exited:
			over = true // look once more at what came last
		case <-timeout.C:
			v.fatalf("no %q on the console within %v", re, v.deadline)
		}
	}
}

// ExpectText is Expect for a literal text.
func (v *VM) ExpectText(s string) {
	v.t.Helper()
	v.Expect(regexp.MustCompile(regexp.QuoteMeta(s)))
}

// Wait waits for QEMU to end and fails the test if it does not, or not well.
func (v *VM) Wait() {
	v.t.Helper()
	select {
	case <-v.exited:
		if v.err != nil {
			v.fatalf("qemu: %v", v.err)
		}
	case <-time.After(v.deadline):
		v.fatalf("the guest did not end within %v", v.deadline)
	}
}

// QMP does one command on QEMU's monitor, such as
// `{"execute":"system_powerdown"}`, and returns what it answered.
func (v *VM) QMP(command string) json.RawMessage {
	v.t.Helper()
	res, err := v.doQMP(command)
	if err != nil {
		v.fatalf("qmp %s: %v", command, err)
	}
	return res
}

// TryQMP is QMP for a command that may be refused.
func (v *VM) TryQMP(command string) (json.RawMessage, error) { return v.doQMP(command) }

func (v *VM) doQMP(command string) (json.RawMessage, error) {
	ctx, cancel := context.WithTimeout(context.Background(), Deadline)
	defer cancel()
	c, err := (&net.Dialer{}).DialContext(ctx, "unix", v.qmp)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(Deadline)); err != nil {
		return nil, err
	}
	in := bufio.NewReader(c)
	if _, err := in.ReadBytes('\n'); err != nil { // the greeting
		return nil, err
	}
	var res json.RawMessage
	for _, cmd := range []string{`{"execute":"qmp_capabilities"}`, command} {
		if _, err := io.WriteString(c, cmd+"\n"); err != nil {
			return nil, err
		}
		for res = nil; res == nil; {
			l, err := in.ReadBytes('\n')
			if err != nil {
				return nil, err
			}
			var m struct {
				Return json.RawMessage
				Error  *struct{ Class, Desc string }
			}
			if err := json.Unmarshal(l, &m); err != nil {
				return nil, err
			}
			if m.Error != nil {
				return nil, errors.New(m.Error.Desc)
			}
			res = m.Return // nil for an event
		}
	}
	return res, nil
}

// fatalf fails the test with the end of the console's output and QEMU's words.
func (v *VM) fatalf(format string, args ...any) {
	v.t.Helper()
	out := v.Output()
	if len(out) > 4000 {
		out = "[…]" + out[len(out)-4000:]
	}
	v.kill()
	v.t.Fatalf("%s\n--- console\n%s\n--- qemu\n%s", fmt.Sprintf(format, args...), out, v.stderr.String())
}
