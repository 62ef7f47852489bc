package qemu

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/hostnet/hostnettest"
	"vmfs/backends/hypervisor"
	"vmfs/backends/process"
	"vmfs/guest"
	"vmfs/guest/guesttest"
)

// needPasst ends the test where passt cannot work.
func needPasst(t testing.TB) {
	t.Helper()
	if err := hostnettest.Passt(); err != nil {
		guesttest.Missing(t, err.Error())
	}
}

// awaitNoPasst waits until a passt has noticed that its QEMU is gone.
func awaitNoPasst(t testing.TB, port string) {
	t.Helper()
	require.Eventually(t, func() bool { return hostnettest.Passts(t, port) == 0 }, patience, 5*time.Millisecond, "an orphan: passt of port %s", port)
}

// TestPasst has a guest talk with its host through passt, both ways.
func TestPasst(t *testing.T) {
	t.Parallel() // with the other tests that wait for a guest
	s := newTestStarter(t)
	needPasst(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	go func() { // ends with the listener
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			// The guest tells of what fails here.
			_ = c.SetDeadline(time.Now().Add(patience))
			said, _ := bufio.NewReader(c).ReadString('\n')
			_, _ = io.WriteString(c, "the host has "+said)
			_ = c.Close()
		}
	}()

	dir := shortDir(t)
	config := bare(dir)
	config.KernelPath, config.InitrdPath = guesttest.Fast(t, guest.Options{})
	config.KernelArgs, config.MemoryBytes = "quiet", 128*mib
	port := hostnettest.FreePort(t)
	config.Networks = []hypervisor.NetworkConfig{{Passt: true, MAC: "52:54:00:aa:bb:cd", Forwards: []string{"tcp:127.0.0.1:" + port + ":7000"}}}
	v := startTest(t, s, dir, config)
	v.ready(0)
	sh := v.shell(t)

	assert.Contains(t, sh.run("readlink -f /sys/class/net/eth0/device"), firstNetwork)
	assert.Equal(t, "52:54:00:aa:bb:cd", sh.run("cat /sys/class/net/eth0/address"))
	sh.run(`printf '#!/bin/sh\n[ "$1" = bound ] || exit 0\nifconfig eth0 $ip netmask $subnet\nroute add default gw $router\necho $router > /run/router\n' > /run/bound; chmod +x /run/bound`)
	sh.run("ip link set eth0 up && udhcpc -i eth0 -n -q -s /run/bound >/dev/null 2>&1")
	hostPort := l.Addr().(*net.TCPAddr).Port
	assert.Equal(t, "the host has words", sh.run(fmt.Sprintf("mkfifo /run/fifo; (exec 3<>/run/fifo; echo words >&3; nc $(cat /run/router) %d <&3)", hostPort)))

	// The server goes, and the network stays.
	require.NoError(t, sh.conn.Close())
	v = v.reopen()
	sh = v.shell(t)
	forwarded := func() {
		t.Helper()
		mark := sh.send("echo from the guest | nc -l -p 7000")
		var got string
		require.Eventually(t, func() bool { // until the guest listens
			c, err := net.Dial("tcp", "127.0.0.1:"+port)
			if err != nil {
				return false
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(patience))
			// passt has the guest's first words wait for the host's (20230309).
			_, _ = io.WriteString(c, "words of the host\n")
			got, _ = bufio.NewReader(c).ReadString('\n') // nothing while nobody listens
			return got != ""
		}, patience, 50*time.Millisecond)
		assert.Equal(t, "from the guest\n", got)
		out, _ := sh.await(mark)
		assert.Equal(t, "words of the host", out)
	}
	forwarded()
	assert.Equal(t, 1, hostnettest.Passts(t, port))

	// A VM that is restored as soon as QEMU was killed has a new passt, though the old
	// one may not have noticed yet, and its guest the address that it had.
	snap := filepath.Join(t.TempDir(), "snap")
	require.NoError(t, v.Snapshot(testContext(t), snap))
	require.NoError(t, sh.conn.Close())
	pid, err := v.pid()
	require.NoError(t, err)
	proc, err := process.Find(pid)
	require.NoError(t, err)
	require.NoError(t, proc.Signal(syscall.SIGKILL))
	require.NoError(t, proc.Wait(testContext(t)))
	_, hv, err := s.RestoreVM(testContext(t), nil, "", filepath.Join(dir, SocketName), snap)
	require.NoError(t, err)
	v = ended(t, s, dir, config, hv.(*VM))
	require.NoError(t, v.Resume(testContext(t)))
	sh = v.shell(t)
	forwarded()
	assert.Equal(t, "the host has more", sh.run(fmt.Sprintf("(exec 3<>/run/fifo; echo more >&3; nc $(cat /run/router) %d <&3)", hostPort)))

	assert.Equal(t, 1, hostnettest.Passts(t, port))
	require.NoError(t, v.Shutdown(testContext(t)))
	awaitNoPasst(t, port)
}

// TestPasstDies kills one of two: the VM tells which, and ends with the other.
func TestPasstDies(t *testing.T) {
	t.Parallel() // with the other tests that wait for a guest
	s := newTestStarter(t)
	needPasst(t)
	dir := shortDir(t)
	config := bare(dir)
	config.KernelPath, config.InitrdPath = guesttest.Fast(t, guest.Options{})
	config.KernelArgs, config.MemoryBytes = "quiet", 128*mib
	config.Networks = []hypervisor.NetworkConfig{{Passt: true}, {Passt: true}}
	v := startTest(t, s, dir, config)
	require.Len(t, v.Child.Beside, 2)
	v.ready(0)
	// Newer passts speak first (an ARP request). Until the guest takes that, QEMU does
	// not read on, and so does not find that one is gone.
	v.shell(t).run("ip link set eth1 up")
	require.NoError(t, v.Child.Beside[1].Kill())
	e := v.events.await(t, 0, "loss of the network", kind(hypervisor.EventNetwork))
	assert.Equal(t, []hypervisor.Detail{{Key: "network", Value: "net1"}}, e.Detail)
	assert.Equal(t, hypervisor.StateRunning, v.info().State)
	require.NoError(t, v.Shutdown(testContext(t)))
	require.NoError(t, v.Child.Beside[0].Await(testContext(t), patience))
	assert.Equal(t, "exit status 0", v.Child.Beside[0].How(), "it ends by itself")
}

// TestFailingPasst has starts that fail because of passt, and beside it.
func TestFailingPasst(t *testing.T) {
	s := newTestStarter(t)
	needPasst(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	_, takenPort, err := net.SplitHostPort(taken.Addr().String())
	require.NoError(t, err)
	for name, c := range map[string]struct {
		port string // of the second network
		cpu  string
		says []string
	}{
		"port taken": {port: takenPort, says: []string{"network 1: ", takenPort}},
		"QEMU fails": {port: hostnettest.FreePort(t), cpu: "abacus", says: []string{"abacus"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := shortDir(t)
			config := bare(dir)
			if c.cpu != "" {
				config.Extras = map[string]string{"qemu.cpu": c.cpu}
			}
			port := hostnettest.FreePort(t)
			for _, p := range []string{port, c.port} {
				config.Networks = append(config.Networks, hypervisor.NetworkConfig{Passt: true, Forwards: []string{"tcp:127.0.0.1:" + p + ":22"}})
			}
			_, hv, err := s.StartVM(testContext(t), nil, "", filepath.Join(dir, SocketName), config)
			if err == nil {
				ended(t, s, dir, config, hv.(*VM))
				t.Fatal("it started")
			}
			for _, says := range c.says {
				assert.ErrorContains(t, err, says)
			}
			assert.NotContains(t, err.Error(), "syslog")
			assert.Zero(t, hostnettest.Passts(t, port), "nothing is left when the start returns")
			assert.Zero(t, hostnettest.Passts(t, c.port), "nothing is left when the start returns")
			expectNothing(t, dir)
		})
	}
}
