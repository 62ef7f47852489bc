package cloudhypervisor_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/cloudhypervisor"
	"vmfs/backends/hypervisor"
	"vmfs/guest"
	"vmfs/guest/guesttest"
	"vmfs/vsock"
)

const (
	// machineDir is where TestRealMachine finds its guest, as the user that it becomes.
	machineDir = "VMFS_TEST_MACHINE"
	machineTap = "vmfstest2"
	nobody     = 65534
)

// TestRealMachine has the real one be all of a machine, as a user who may use /dev/kvm and
// nothing else: as many devices as there can be, in their order, of which the first are an image and a
// qcow2 that are read-only; CPUs with two threads; a network with an address; a guest that dials
// the host; a restore, which ends its streams; and a machine that boots a firmware.
func TestRealMachine(t *testing.T) {
	s := realStarter(t)
	dir := os.Getenv(machineDir)
	if dir == "" {
		asNobody(t)
		return
	}
	require.Equal(t, nobody, os.Geteuid())
	path := func(name string) string { return filepath.Join(dir, name) }
	config := hypervisor.VMConfig{
		Name: "whole", UUID: "5a0e6d3c-1111-4222-8333-444455556666", MemoryBytes: 192 << 20, VsockCID: 3, VsockSocket: path("vsock.sock"),
		VCPUs: 2, Topology: &hypervisor.CPUTopology{ThreadsPerCore: 2}, KernelPath: path("vmlinuz"), InitrdPath: path("initrd"),
		KernelArgs: "quiet no_timer_check", SerialLogPath: path("console.log"), LogPath: path("log"),
		Networks: []hypervisor.NetworkConfig{{TAPDevice: machineTap, IP: "10.9.9.2", Netmask: "255.255.255.0"}},
		Disks:    []hypervisor.DiskConfig{{Path: path("raw"), Readonly: true}, {Path: path("qcow2"), Readonly: true, Format: hypervisor.DiskQCOW2}},
	}
	require.NoError(t, os.WriteFile(path("raw"), append([]byte("hello"), make([]byte, 1<<20-5)...), 0o600))
	out, err := exec.Command("qemu-img", "convert", "-O", "qcow2", path("raw"), path("qcow2")).CombinedOutput()
	require.NoError(t, err, string(out))
	for i := len(config.Disks); i < 26-1; i++ {
		d := hypervisor.DiskConfig{Path: path(fmt.Sprint("disk", i))}
		require.NoError(t, os.WriteFile(d.Path, make([]byte, 64<<10), 0o600))
		config.Disks = append(config.Disks, d)
	}
	socket := path(filepath.Join("run", cloudhypervisor.SocketName))
	v := begun(t)(s.StartVM(t.Context(), nil, "", socket, config))
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", v.pid))
	require.NoError(t, err)
	assert.Regexp(t, `(?m)^Uid:\s65534\s65534\s65534\s65534$`, string(status))
	assert.Regexp(t, `(?m)^CapPrm:\s0+$`, string(status))

	accepted := listens(t, config.VsockSocket, 9000)
	v.run("setsid sh -c 'echo from the guest | vsock dial 9000' >/dev/null 2>&1 &")
	says(t, <-accepted, "from the guest\n")
	assert.Equal(t, "2\n0-1", v.run("nproc; cat /sys/devices/system/cpu/cpu1/topology/thread_siblings_list"))
	assert.Contains(t, v.run("ip -4 addr show eth0"), "inet 10.9.9.2/24 ")
	assert.Equal(t, "1 refused 1 refused", v.run("for d in vda vdb; do cat /sys/block/$d/ro; dd if=/dev/zero of=/dev/$d count=1 2>/dev/null || echo refused; done | xargs"))
	assert.Equal(t, "hellohello", v.run("head -c 5 /dev/vda; head -c 5 /dev/vdb"))
	var last int64
	lines := strings.Split(v.run("cd /sys/block; for d in vd*; do echo $(cat $d/serial) $(basename $(readlink -f $d/device/..)); done"), "\n")
	require.Len(t, lines, len(config.Disks))
	for i, line := range lines {
		m := regexp.MustCompile(`^disk(\d+) 0000:00:([0-9a-f]+)\.0$`).FindStringSubmatch(line)
		require.NotNil(t, m, line)
		assert.Equal(t, strconv.Itoa(i), m[1])
		slot, err := strconv.ParseInt(m[2], 16, 64)
		require.NoError(t, err)
		assert.Greater(t, slot, last, line)
		last = slot
	}

	twice := config
	twice.Name, twice.UUID, twice.Networks, twice.VsockCID, twice.VsockSocket = "twice", "5a0e6d3c-1111-4222-8333-444455556667", nil, 0, ""
	twice.Disks = config.Disks[2:3]
	_, _, err = s.StartVM(t.Context(), nil, "", path("twice/"+cloudhypervisor.SocketName), twice)
	require.Error(t, err, "an image in two VMs")
	t.Log(err)

	accepted = listens(t, config.VsockSocket, 9001)
	v.run("mkfifo /tmp/f; setsid sh -c 'exec 3<>/tmp/f; echo open >&3; vsock dial 9001 <&3; echo ended >/tmp/ended' >/dev/null 2>&1 &")
	says(t, <-accepted, "open\n")
	assert.True(t, v.Capabilities().SupportsSnapshot)
	require.NoError(t, v.Snapshot(v.ctx(), path("one")))
	assert.Equal(t, "no", v.run("[ -e /tmp/ended ] || echo no"), "it goes on after the snapshot")
	v.end()
	v = begun(t)(s.RestoreVM(t.Context(), nil, "", socket, path("one")))
	require.NoError(t, v.Resume(v.ctx()))
	assert.Equal(t, "ended", v.run("until [ -e /tmp/ended ]; do usleep 10000; done; cat /tmp/ended"), "the guest is told that its stream has ended")
	assert.Equal(t, "hello", v.run("head -c 5 /dev/vdb"))
	v.end()

	require.NoError(t, os.WriteFile(path("firmware"), firmware("the firmware runs\n"), 0o600))
	config = hypervisor.VMConfig{
		Name: "firm", UUID: config.UUID, MemoryBytes: 64 << 20, SerialLogPath: path("firmware.log"), LogPath: path("log"),
		Extras: map[string]string{"cloud-hypervisor.firmware": path("firmware")},
	}
	begun(t)(s.StartVM(t.Context(), nil, "", socket, config))
	require.Eventually(t, func() bool {
		b, err := os.ReadFile(config.SerialLogPath)
		return err == nil && bytes.Contains(b, []byte("the firmware runs"))
	}, realPatience, 10*time.Millisecond)
}

// asNobody runs TestRealMachine as a user with nothing but the group of /dev/kvm, and a tap that
// was made for it.
func asNobody(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can become somebody else")
	}
	kvm, err := os.Stat("/dev/kvm")
	require.NoError(t, err)
	dir, err := os.MkdirTemp("/tmp", "ch") // short enough for sockets
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	require.NoError(t, os.Chown(dir, nobody, nobody))
	kernel, initrd := guesttest.Fast(t, guest.Options{})
	self, err := os.Executable()
	require.NoError(t, err)
	for name, from := range map[string]string{"vmlinuz": kernel, "initrd": initrd, "test": self} {
		b, err := os.ReadFile(from)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), b, 0o755))
	}
	for _, line := range []string{"tuntap add dev " + machineTap + " mode tap vnet_hdr user " + strconv.Itoa(nobody), "link set " + machineTap + " up"} {
		out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput()
		require.NoError(t, err, "ip %s: %s", line, out)
	}
	t.Cleanup(func() { _ = exec.Command("ip", "link", "del", machineTap).Run() })
	cmd := exec.Command("setpriv", "--reuid", strconv.Itoa(nobody), "--regid", strconv.Itoa(nobody),
		"--groups", fmt.Sprint(kvm.Sys().(*syscall.Stat_t).Gid), "--inh-caps=-all", "--bounding-set=-all", "--no-new-privs", "--",
		filepath.Join(dir, "test"), "-test.v", "-test.run", "^"+t.Name()+"$")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), machineDir+"="+dir, "HOME="+dir, "TMPDIR=/tmp")
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	require.NoError(t, err)
	require.Contains(t, string(out), "--- PASS: "+t.Name())
}

// listens waits for a guest that dials a port of the host.
func listens(t *testing.T, socket string, port int) <-chan net.Conn {
	t.Helper()
	ln, err := net.Listen("unix", vsock.ListenPath(socket, port))
	require.NoError(t, err)
	t.Cleanup(func() { _ = ln.Close() })
	accepted := make(chan net.Conn, 1)
	go func() { // ends with the listener
		conn, err := ln.Accept()
		if err == nil {
			t.Cleanup(func() { _ = conn.Close() })
		}
		accepted <- conn
	}()
	return accepted
}

func says(t *testing.T, conn net.Conn, want string) {
	t.Helper()
	require.NotNil(t, conn)
	got := make([]byte, len(want))
	require.NoError(t, conn.SetDeadline(time.Now().Add(realPatience)))
	_, err := io.ReadFull(conn, got)
	require.NoError(t, err)
	assert.Equal(t, want, string(got))
}

// firmware is a program that a PC without anything else runs, as an ELF file with a PVH
// entry: it prints a text at the serial port.
func firmware(text string) []byte {
	const (
		base  = 1 << 20 // where it is loaded
		note  = 64 + 2*56
		entry = note + 20
	)
	code := []byte{
		0xfc,             // cld
		0xbe, 0, 0, 0, 0, // mov text, %esi
		0xac,       // next: lods
		0x84, 0xc0, // test %al, %al
		0x74, 8, // jz end
		0x66, 0xba, 0xf8, 3, // mov $0x3f8, %dx
		0xee,       // out
		0xeb, 0xf4, // jmp next
		0x90,       // nop
		0xf4,       // end: hlt
		0xeb, 0xfd, // jmp end
	}
	binary.LittleEndian.PutUint32(code[2:], uint32(base+entry+len(code)))
	b := []byte("\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00")
	le := binary.LittleEndian
	u16 := func(v ...uint16) {
		for _, v := range v {
			b = le.AppendUint16(b, v)
		}
	}
	u32 := func(v ...uint32) {
		for _, v := range v {
			b = le.AppendUint32(b, v)
		}
	}
	u64 := func(v ...uint64) {
		for _, v := range v {
			b = le.AppendUint64(b, v)
		}
	}
	u16(2, 62) // an executable of x86-64
	u32(1)
	u64(base+entry, 64, 0)
	u32(0)
	u16(64, 56, 2, 0, 0, 0)
	// All of the file, to be loaded.
	u32(1, 7)
	size := uint64(entry + len(code) + len(text) + 1)
	u64(0, base, base, size, size, 4096)
	// The note that says where to begin: Xen's PHYS32_ENTRY.
	u32(4, 4)
	u64(note, base+note, base+note, 20, 20, 4)
	u32(4, 4, 18)
	b = append(b, "Xen\x00"...)
	u32(base + entry)
	return append(append(append(b, code...), text...), 0)
}
