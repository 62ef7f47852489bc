package agent_test

import (
	"bufio"
	"fmt"
	"io/fs"
	"net"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/guest"
	"vmfs/guest/guesttest"
)

var (
	memoryLine = regexp.MustCompile(`(?m)^vmfs guest: memory (\d+) MiB \(was (\d+) MiB\)\n`)
	prompt     = "guest# "
)

// run types a command to the guest's shell and returns what it printed. The
// command must not print a line of its own that ends in "=status".
func run(v *guesttest.VM, command string) (out, status string) {
	// The quotes keep the echo of the typed line from matching.
	v.Type(command + "; echo sta''tus=$?\n")
	v.ExpectText("sta''tus=$?\n")
	m := v.Expect(regexp.MustCompile(`(?s)(.*?)status=(\d+)\n`))
	v.ExpectText(prompt)
	return m[1], m[2]
}

// options is an image that most tests share, as each takes its time to build.
func options(t *testing.T, series string) guest.Options {
	script := func(name, content string, mode fs.FileMode) guest.File {
		return guest.File{Path: "/test/" + name, Content: []byte(content), Mode: mode}
	}
	return guest.Options{
		Package:      guesttest.Kernel(t, series, "cloud"),
		ExtraModules: []string{"vsock_loopback"},
		Files: []guest.File{
			script("status", "#!/bin/sh\ntty\necho out; echo err >&2; exit 7\n", 0o755),
			script("signal", "kill -9 $$\n", 0o755),                    // no #!
			script("reboot", "#!/bin/sh\nreboot\nsleep 1000\n", 0o644), // no permission
		},
	}
}

// The whole of a guest's life, on each of Debian's cloud kernels.
func TestBoot(t *testing.T) {
	for series, balloon := range map[string]string{
		"6.1": "virtio-balloon-pci",
		// Of this one the kernel counts what it holds as its own memory.
		"6.12": "virtio-balloon-pci,deflate-on-oom=on",
	} {
		t.Run(series, func(t *testing.T) {
			t.Parallel()
			kernel, initrd := guesttest.Build(t, options(t, series))
			v := guesttest.Start(t, guesttest.Config{
				Kernel: kernel, Initrd: initrd,
				Memory: "256M,maxmem=2G",
				Append: "vmfs.net=user vmfs.hostname=web",
				Args: []string{
					"-smp", "2",
					"-object", "memory-backend-ram,id=plug,size=512M",
					"-device", "virtio-mem-pci,id=vm0,memdev=plug,requested-size=0",
					"-device", balloon,
					"-netdev", "user,id=n0", "-device", "virtio-net-pci,netdev=n0",
				},
			})
			m := v.Expect(guesttest.Ready)
			assert.True(t, strings.HasPrefix(m[1], series+"."), m[1])
			assert.Equal(t, "2", m[2], "cpus")
			assert.Equal(t, "256", m[3], "MiB")
			assert.NotContains(t, v.Output(), "vmfs guest: ", "a complaint")
			v.ExpectText(prompt)

			t.Run("shell", func(t *testing.T) { testShell(t, v) })
			t.Run("network", func(t *testing.T) { testNetwork(t, v) })
			t.Run("vsock", func(t *testing.T) { testVsock(t, v) })
			t.Run("orphans", func(t *testing.T) { testOrphans(t, v) })
			t.Run("memory", func(t *testing.T) { testMemory(t, v) })
			if t.Failed() {
				return
			}
			v.QMP(`{"execute":"system_powerdown"}`)
			v.ExpectText("vmfs guest: powering off\n")
			v.Wait()
		})
	}
}

func testShell(t *testing.T, v *guesttest.VM) {
	out, status := run(v, "hostname; tty; false")
	assert.Equal(t, "web\n/dev/pts/0\n", out)
	assert.Equal(t, "1", status)
	assert.NotContains(t, v.Output(), "\x1b[6n", "a question to terminals that only look on")

	// A program of its own says so: what the shell forks loses a signal that comes
	// before it runs its program.
	v.Type("sh -c 'echo sle\"\"eping; sleep 1000'\n")
	v.ExpectText("\nsleeping\n")
	v.Type("\x03") // job control: the terminal sends SIGINT to the foreground only
	v.ExpectText(prompt)
	out, _ = run(v, "sleep 1000 & jobs; kill %1")
	assert.Contains(t, out, "Running")

	// Signals that end an ordinary Go program, or would, must not touch init.
	_, status = run(v, "kill -QUIT 1; kill -HUP 1; kill -ABRT 1; kill -SEGV 1; kill -35 1; kill -0 1")
	assert.Equal(t, "0", status)
	v.Type("exit\n") // and a shell that ends is replaced
	v.ExpectText("built-in shell")
	v.ExpectText(prompt)
}

func testNetwork(t *testing.T, v *guesttest.VM) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	got := make(chan string, 1)
	go func() {
		defer close(got)
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		l, err := bufio.NewReader(c).ReadString('\n')
		if err == nil {
			got <- l
			fmt.Fprintln(c, "and back")
		}
	}()
	_, port, err := net.SplitHostPort(ln.Addr().String())
	require.NoError(t, err)
	out, status := run(v, "echo out | nc 10.0.2.2 "+port)
	assert.Equal(t, "and back\n", out)
	assert.Equal(t, "0", status)
	ln.Close()
	assert.Equal(t, "out\n", <-got)

	out, _ = run(v, "ip -4 -o addr show; ip route; cat /etc/resolv.conf")
	assert.Contains(t, out, "127.0.0.1/8")
	assert.Contains(t, out, "10.0.2.15/24")
	assert.Contains(t, out, "default via 10.0.2.2 dev eth0")
	assert.Contains(t, out, "nameserver 10.0.2.3")
}

// There is no device, but the kernel's loopback: context id 1.
func testVsock(t *testing.T, v *guesttest.VM) {
	for _, c := range []struct{ command, out string }{
		{"echo 'uname -s; exit 3' | vsock dial 1:1024", "Linux\nstatus 3\n"},
		{"printf 'cat\nwords' | vsock dial 1:1024", "words\nstatus 0\n"},
		{"(echo '-tar -C /etc -cf - passwd') | vsock dial 1:1024 | tar -tf -", "passwd\n"},
		{"echo and back | vsock dial 1:7", "and back\n"},
		{"head -c 1000000 /dev/zero | vsock dial 1:7 | wc -c", "1000000\n"},
		{"head -c 1000000 /dev/zero | vsock dial 1:9 | wc -c", "0\n"},
		{"vsock dial 1:13 </dev/null | grep -c UTC", "1\n"},
		{"vsock dial 1:19 | head -c 4", " !\"#"},
		{"echo hello | vsock dial 1:1026", "ok version=1 requests=hello,memory,clock\n"},
		{"vsock dial 1:77 2>&1 </dev/null", "vsock: dial vsock local(1):77: connect: connection reset by peer\n"},
	} {
		out, _ := run(v, c.command)
		assert.Equal(t, c.out, out, c.command)
	}
}

// Processes whose parent is gone come to init, which must wait for them.
func testOrphans(t *testing.T, v *guesttest.VM) {
	out, _ := run(v, "for i in 1 2 3 4 5 6 7 8 9; do (sh -c 'exit 3' & ) ; done; while grep -q '^State:.Z' /proc/[0-9]*/status 2>/dev/null; do sleep 0.1; done; echo none")
	assert.Equal(t, "none\n", out)
}

func testMemory(t *testing.T, v *guesttest.VM) {
	steps := []struct {
		name, qmp string
		want, was string
	}{
		{"plug a block", `{"execute":"qom-set","arguments":{"path":"vm0","property":"requested-size","value":134217728}}`, "384", "256"},
		{"plug part of a block", `{"execute":"qom-set","arguments":{"path":"vm0","property":"requested-size","value":146800640}}`, "396", "384"},
		{"unplug", `{"execute":"qom-set","arguments":{"path":"vm0","property":"requested-size","value":0}}`, "256", "396"},
		{"balloon up", `{"execute":"balloon","arguments":{"value":201326592}}`, "192", "256"},
		{"balloon down", `{"execute":"balloon","arguments":{"value":268435456}}`, "256", "192"},
	}
	for _, s := range steps {
		v.QMP(s.qmp)
		// A slow change is told of on its way too.
		for was := s.was; was != s.want; {
			m := v.Expect(memoryLine)
			require.Equal(t, was, m[2], s.name)
			was = m[1]
		}
	}
	v.Type("\n") // a fresh prompt under the agent's lines
	v.ExpectText(prompt)
}

func TestScript(t *testing.T) {
	kernel, initrd := guesttest.Build(t, options(t, "6.1"))
	for _, tc := range []struct {
		name, console string
		want          []string
	}{
		{"status", "", []string{"/dev/ttyS0\n", "out\nerr\n", "vmfs guest: script exited 7\n", "vmfs guest: powering off\n"}},
		// This kernel's virtio console is a module: there is no console before it.
		{"status", "hvc0", []string{"/dev/hvc0\n", "out\nerr\n", "vmfs guest: script exited 7\n", "vmfs guest: powering off\n"}},
		{"signal", "", []string{"vmfs guest: script exited 137\n", "vmfs guest: powering off\n"}},
		{"reboot", "", []string{"vmfs guest: rebooting\n"}},
		{"missing", "", []string{"vmfs guest: script: start /test/missing: no such file or directory\n", "vmfs guest: powering off\n"}},
	} {
		t.Run(tc.name+tc.console, func(t *testing.T) {
			t.Parallel()
			v := guesttest.Start(t, guesttest.Config{Kernel: kernel, Initrd: initrd, Append: "vmfs.script=/test/" + tc.name, Console: tc.console})
			v.Expect(guesttest.Ready)
			for _, w := range tc.want {
				v.ExpectText(w)
			}
			v.Wait()
		})
	}
}

// Without a busybox the agent's own prompt is the console.
func TestPrompt(t *testing.T) {
	t.Parallel()
	kernel, initrd := guesttest.Build(t, guest.Options{Busybox: guest.NoBusybox})
	v := guesttest.Start(t, guesttest.Config{Kernel: kernel, Initrd: initrd})
	release := v.Expect(guesttest.Ready)[1]
	v.ExpectText("guest> ")
	for _, c := range []struct{ typed, want string }{
		{"echo a  b", "\na b\n"},
		{"mem", "\n256 MiB\n"},
		{"uname", "\nLinux " + release + " "},
		{"ps", "    1 /init\n"},
		{"dmesg 3", "\n<"},
		{"dmesg x", "dmesg: \"x\" is not a number of lines\n"},
		{"nonsense", "nonsense: unknown command"},
		{"help", "poweroff     end the machine\n"},
	} {
		v.Type(c.typed + "\n")
		v.ExpectText(c.want)
		v.ExpectText("guest> ")
	}
	v.Type("poweroff\n")
	v.ExpectText("vmfs guest: powering off\n")
	v.Wait()
}

// The full kernels, with 9p. One guest ends by itself, the other by its script.
func TestV9FSKernels(t *testing.T) {
	for _, tc := range []struct{ series, script, end string }{
		{"6.1", "", "vmfs guest: script exited 0\n"},
		{"6.12", "poweroff\nsleep 1000\n", "vmfs guest: powering off\n"},
	} {
		t.Run(tc.series, func(t *testing.T) {
			t.Parallel()
			kernel, initrd := guesttest.V9FS(t, tc.series,
				guesttest.Script("#!/bin/sh\ngrep 9p /proc/filesystems\nip -4 -o addr show dev eth0\ncat /etc/extra\n"+tc.script),
				guest.File{Path: "/etc/extra", Content: []byte("an extra file\n")})
			v := guesttest.Start(t, guesttest.Config{
				Kernel: kernel, Initrd: initrd, Append: "vmfs.net=user",
				Args: []string{"-netdev", "user,id=n0", "-device", "virtio-net-pci,netdev=n0"},
			})
			v.Expect(regexp.MustCompile(`vmfs guest ready: linux ` + regexp.QuoteMeta(tc.series) + `\.`))
			v.ExpectText("nodev\t9p\n")
			v.ExpectText("10.0.2.15/24")
			v.ExpectText("an extra file\n")
			v.ExpectText(tc.end)
			v.Wait()
		})
	}
}
