package ring

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mdlayher/vsock"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// patience bounds every step. A host in emulation is slow, and may have to share.
const patience = 5 * time.Minute

const (
	socket = "/run/vmfs/vmfs.sock"
	tree   = "/n"
)

// needHost ends a test elsewhere than in a test host.
func needHost(t *testing.T) {
	if os.Getenv("VMFS_TESTHOST") == "" {
		t.Skip("runs in a test host: make host-ring, or make test-host")
	}
}

// as runs a line of shell as a user and returns what it printed.
func as(t *testing.T, user, line string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	args := []string{"/bin/bash", "-c", line}
	if user != "root" {
		args = append([]string{"setpriv", "--reuid", user, "--regid", user, "--init-groups", "--"}, args...)
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		err = fmt.Errorf("not within %v: %w", patience, err)
	}
	return string(out), err
}

// run is as for what must succeed.
func run(t *testing.T, user, line string) string {
	t.Helper()
	out, err := as(t, user, line)
	require.NoError(t, err, "%s: %s: %s", user, line, out)
	return out
}

// refused is as for what must be refused with an errno's words.
func refused(t *testing.T, user, line, errno string) {
	t.Helper()
	out, err := as(t, user, line)
	if assert.Error(t, err, "%s may: %s: %s", user, line, out) {
		assert.Contains(t, out, errno, "%s: %s", user, line)
	}
}

// A host is a vmfs server on its Unix socket, with the kernel's own v9fs on that.
type host struct {
	server *exec.Cmd
	state  string
	log    string
}

// serve starts the server and mounts its tree. Its state is kept over servers.
func serve(t *testing.T, state string) *host {
	t.Helper()
	h := &host{state: state, log: filepath.Join(t.TempDir(), "log")}
	log, err := os.Create(h.log)
	require.NoError(t, err)
	defer log.Close()
	_ = os.Remove(socket) // that of a killed one may be there
	h.server = exec.Command("vmfs", "serve", "--listen", "unix!"+socket, "--state", state, "--create-group", "vms")
	h.server.Stderr = log
	h.server.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	require.NoError(t, h.server.Start())
	out, err := as(t, "root", fmt.Sprintf("until [ -S %s ]; do [ -r /proc/%d/exe ] || exit 1; sleep 0.1; done; mkdir -p %s; vmfs mount %s",
		socket, h.server.Process.Pid, tree, tree))
	if err != nil {
		said, _ := os.ReadFile(h.log) // without it there is less to see
		require.NoError(t, err, "%s\nthe server's log:\n%s", out, said)
	}
	return h
}

// kill ends the server as a crash does.
func (h *host) kill(t *testing.T) {
	t.Helper()
	require.NoError(t, h.server.Process.Kill())
	_ = h.server.Wait()                                  // it was killed
	run(t, "root", "umount "+tree+" || umount -l "+tree) // somebody may still read
}

func (h *host) end(t *testing.T) {
	if t.Failed() {
		b, _ := os.ReadFile(h.log) // without it there is less to see
		t.Logf("the server's log:\n%s", b)
		out, _ := as(t, "root", "for v in "+tree+"/*/; do echo \"== $v\"; tail -n 5 $v/error $v/info $v/log; done; tail -n 20 "+h.state+"/vms/*/console.log; dmesg | tail -n 20")
		t.Log(out)
	}
	_, _ = as(t, "root", "for v in "+tree+"/*/; do echo kill >$v/ctl; done") // those that run
	h.kill(t)
}

// path puts the program of the checkout into PATH, and says where the guest is.
func path(t *testing.T) (image string) {
	t.Helper()
	bin, err := filepath.Abs("../../../bin")
	require.NoError(t, err)
	require.FileExists(t, filepath.Join(bin, "vmfs"), "run `make build`")
	// Root's own program would do for root alone.
	run(t, "root", "mkdir -p /usr/local/bin && cp "+bin+"/vmfs /usr/local/bin/vmfs && chmod 755 /usr/local/bin/vmfs && mkdir -p -m 755 /run/vmfs")
	run(t, "root", "grep -q ^vms: /etc/group || echo vms:x:4100:ann >>/etc/group") // serve's
	image = os.Getenv("VMFS_GUEST_IMAGE")
	require.FileExists(t, image+"/initrd", "the test host is to be run with -guests")
	return image
}

// cmdline are the arguments of a VM's QEMU.
func cmdline(t *testing.T, vm string) string {
	t.Helper()
	return run(t, "root", "tr '\\0' ' ' </proc/$(cat "+tree+"/"+vm+"/pid)/cmdline")
}

// awaitGuest waits for the guest's agent to say on the console that it is there: to ask
// for it again and again would take the guest's CPU.
func awaitGuest(t *testing.T, vm string) {
	t.Helper()
	run(t, "root", "grep -a -m 1 'vmfs guest ready' "+tree+"/"+vm+"/console")
}

// TestHost is one story on one server, since guests take their time to boot here.
func TestHost(t *testing.T) { each(t, testHost) }

func testHost(t *testing.T, b backend) {
	image := path(t)
	run(t, "root", `ip link add br0 type bridge && ip addr add 10.9.0.1/24 dev br0 && ip link set br0 up
ip tuntap add tap0 mode tap && ip link set tap0 master br0 up`)
	t.Cleanup(func() { run(t, "root", "ip link del tap0; ip link del br0") })
	state := t.TempDir()
	h := serve(t, state)
	defer func() { h.end(t) }()
	t.Setenv("VMFS_ADDR", "unix!"+socket)
	step := func(name string, f func(t *testing.T)) {
		if !t.Run(name, f) {
			t.FailNow() // what comes next builds on it
		}
	}

	step("users", func(t *testing.T) { testUsers(t, b, image) })
	step("boot by KVM", func(t *testing.T) { testBoot(t, b) })
	step("bridge", testBridge)
	step("vsock", func(t *testing.T) { testVsock(t, b) })
	step("killed server", func(t *testing.T) {
		pid := run(t, "root", "cat /n/web/pid")
		h.kill(t)
		h = serve(t, state)
		assert.Equal(t, "running\n", run(t, "root", "cat /n/web/state"))
		assert.Equal(t, pid, run(t, "root", "cat /n/web/pid"), "the VM went on")
		assert.Equal(t, "4001", strings.TrimSpace(run(t, "root", "stat -c %u /n/web")), "and has its owner")
		assert.Equal(t, "Linux\n", run(t, "root", "vmfs exec web uname -s"))
	})
	step("snapshot and restore", func(t *testing.T) { testSnapshot(t, b) })
	step("power off", func(t *testing.T) {
		run(t, "ann", "echo poweroff >/n/web/ctl; echo wait shutdown 60s >/n/web/ctl; rmdir /n/web")
		out, err := as(t, "root", "ls /n/web")
		require.Error(t, err, out)
		assert.Contains(t, out, "No such file")
	})
}

// testUsers holds two ordinary users of the mount to what docs/security.md says.
func testUsers(t *testing.T, b backend, image string) {
	assert.Contains(t, run(t, "root", "grep ' /n 9p ' /proc/mounts"), "access=user")
	refused(t, "bob", "mkdir /n/mine", "denied") // is not in --create-group
	run(t, "ann", "umask 022; mkdir /n/web")
	assert.Equal(t, "4001 755\n", run(t, "root", "stat -c '%u %a' /n/web"))

	// Others, as the others' bits say: they read.
	assert.Equal(t, "created\n", run(t, "bob", "cat /n/web/state"))
	refused(t, "bob", "echo start >/n/web/ctl", "denied")
	refused(t, "bob", "echo memory=64M >/n/web/config", "denied")
	refused(t, "bob", "rmdir /n/web", "denied")
	refused(t, "bob", "chmod 777 /n/web", "not permitted")
	refused(t, "bob", "chown bob /n/web", "not permitted")
	// The owner shuts the door, and gives nothing away.
	run(t, "ann", "chmod 700 /n/web")
	refused(t, "bob", "cat /n/web/state", "denied")
	assert.Contains(t, run(t, "bob", "ls /n"), "web", "names are for all to see")
	refused(t, "ann", "chown bob /n/web", "not permitted")
	// Root may all.
	assert.Equal(t, "created\n", run(t, "root", "cat /n/web/state"))
	run(t, "root", "chown bob /n/web")
	refused(t, "ann", "cat /n/web/state", "denied")
	run(t, "root", "chown ann /n/web")
	// The socket itself lets in root alone.
	refused(t, "bob", "VMFS_ADDR='unix!"+socket+"' vmfs cat web/state", "denied")

	run(t, "ann", config(b, image, 3, "10.9.0.2", "tap:tap0")+" >/n/web/config")
	run(t, "root", "mkdir /n/db && "+config(b, image, 4, "10.9.0.3", "bridge:br0")+" >/n/db/config")
}

func config(b backend, image string, cid int, ip, net string) string {
	return fmt.Sprintf(`printf '%%s\n' hypervisor=%s memory=192M hotplug=256M vsock.cid=%d kernel=%s/vmlinuz initrd=%s/initrd 'args=quiet no_timer_check' net=%s,ip:%s,netmask:255.255.255.0`,
		b.name, cid, image, image, net, ip)
}

func testBoot(t *testing.T, b backend) {
	run(t, "ann", "echo start >/n/web/ctl")
	run(t, "root", "echo start >/n/db/ctl")
	for _, vm := range []string{"web", "db"} {
		b.started(t, vm)
	}
	for _, vm := range []string{"web", "db"} {
		awaitGuest(t, vm)
	}
	assert.Equal(t, "running\n", run(t, "ann", "cat /n/web/state"))
	assert.Contains(t, run(t, "ann", "timeout 5 cat /n/web/console || :"), "vmfs guest ready")

	run(t, "ann", "echo pause >/n/web/ctl")
	assert.Equal(t, "paused\n", run(t, "ann", "cat /n/web/state"))
	refused(t, "ann", "echo pause >/n/web/ctl", "")
	assert.Contains(t, run(t, "ann", "cat /n/web/error"), "pause")
	run(t, "ann", "echo resume >/n/web/ctl; echo memory 320M wait 60s >/n/web/ctl")
	assert.Equal(t, "335544320\n", run(t, "ann", "cat /n/web/memory"))
	run(t, "ann", "echo memory 192M wait 60s >/n/web/ctl")
}

func testBridge(t *testing.T) {
	ports := run(t, "root", "ls /sys/class/net/br0/brif")
	assert.Contains(t, ports, "tap0")
	assert.Contains(t, ports, "vm-db", "the tap that was made for it")
	for _, p := range [][2]string{{"web", "10.9.0.3"}, {"db", "10.9.0.2"}, {"web", "10.9.0.1"}} {
		out := run(t, "root", "vmfs exec "+p[0]+" ping -c 2 -W 10 "+p[1])
		assert.Contains(t, out, " 0% packet loss", "%s to %s", p[0], p[1])
	}
	run(t, "root", "echo kill >/n/db/ctl; echo wait shutdown 30s >/n/db/ctl; rmdir /n/db")
	assert.NotContains(t, run(t, "root", "ls /sys/class/net"), "vm-db", "no trace of its tap")
}

// testVsock reaches the guest by the tree, and by the kernel's own sockets.
func testVsock(t *testing.T, b backend) {
	if b.kernelVsock {
		testKernelVsock(t)
	}
	assert.Equal(t, "and back\n", run(t, "ann", "exec 3<>/n/web/vsock/7; echo and back >&3; head -n 1 <&3"))
	refused(t, "bob", "cat /n/web/vsock/13", "denied")
	assert.Equal(t, "3\n", run(t, "root", "vmfs exec web sh -c 'exit 3'; echo $?"))
}

func testKernelVsock(t *testing.T) {
	c, err := vsock.Dial(3, 13, nil) // daytime
	require.NoError(t, err, "AF_VSOCK to the guest's CID")
	defer c.Close()
	require.NoError(t, c.SetDeadline(time.Now().Add(patience)))
	b := make([]byte, 64)
	n, err := c.Read(b)
	require.NoError(t, err)
	assert.Contains(t, string(b[:n]), "UTC")
}

func testSnapshot(t *testing.T, b backend) {
	run(t, "root", "vmfs exec web sh -c 'echo kept >/tmp/token'")
	run(t, "ann", "echo snapshot one >/n/web/ctl")
	assert.Equal(t, "running\n", run(t, "ann", "cat /n/web/state"))
	pid := run(t, "ann", "cat /n/web/pid")
	run(t, "root", "vmfs exec web sh -c 'echo lost >/tmp/token'")
	run(t, "ann", "echo kill >/n/web/ctl; echo wait shutdown 30s >/n/web/ctl; echo restore one >/n/web/ctl")
	assert.Equal(t, "paused\n", run(t, "ann", "cat /n/web/state"))
	assert.NotEqual(t, pid, run(t, "ann", "cat /n/web/pid"))
	b.started(t, "web")
	run(t, "ann", "echo resume >/n/web/ctl")
	run(t, "root", "until vmfs exec web true 2>/dev/null; do sleep 1; done") // vsock comes a moment later
	assert.Equal(t, "kept\n", run(t, "root", "vmfs exec web cat /tmp/token"))
	run(t, "ann", "rmdir /n/web/snapshots/one")
}
