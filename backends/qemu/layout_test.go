package qemu

import (
	"archive/tar"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/hypervisor"
	"vmfs/backends/rundir"
)

// unpackOld unpacks testdata/old-state.tar.gz: a state directory of vmfs as it was
// before layouts and formats of its own, with the images of its VMs' disks, from
// a host that lost its power. It was at /srv there.
func unpackOld(t testing.TB, dir string) {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", "old-state.tar.gz"))
	require.NoError(t, err)
	defer f.Close()
	z, err := gzip.NewReader(f)
	require.NoError(t, err)
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		require.NoError(t, err)
		path := filepath.Join(dir, filepath.FromSlash(h.Name))
		if h.Typeflag == tar.TypeDir {
			require.NoError(t, os.MkdirAll(path, 0o700))
			continue
		}
		b, err := io.ReadAll(r)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(path, b, 0o600))
		require.NoError(t, os.Chtimes(path, h.ModTime, h.ModTime))
	}
}

// oldConfig is what the VM of unpackOld was started with, with its files below at.
func oldConfig(at string) hypervisor.VMConfig {
	dir := filepath.Join(at, "vmfs", "vms", "web")
	return hypervisor.VMConfig{
		VCPUs: 1, MemoryBytes: 16 * mib, HotplugBytes: 16 * mib,
		Disks: []hypervisor.DiskConfig{
			{Path: filepath.Join(at, "images", "a.img"), Format: hypervisor.DiskRaw},
			{Path: filepath.Join(at, "images", "b.img"), Format: hypervisor.DiskRaw, Readonly: true},
		},
		Networks: []hypervisor.NetworkConfig{{User: true}},
		VsockCID: 1000, VsockSocket: filepath.Join(dir, "run", "vsock.sock"),
		Name: "web", UUID: "2b70a29f-5285-42ed-9043-0fd98821d627",
		SerialLogPath: filepath.Join(dir, "console.log"), LogPath: filepath.Join(dir, "log"),
		Extras: map[string]string{"qemu.accel": accelTCG, "qemu.watchdog": "pause"},
	}
}

// TestOldState reads what vmfs kept before its formats had names of their own: it
// makes the same QEMU of it, to the letter.
func TestOldState(t *testing.T) {
	dir := t.TempDir()
	unpackOld(t, dir)
	vm := filepath.Join(dir, "vmfs", "vms", "web")
	rec, err := rundir.Read[record](testDir(filepath.Join(vm, "run")).Dir)
	require.NoError(t, err)
	assert.Equal(t, oldConfig("/srv"), rec.Config.VMConfig)
	assert.True(t, rec.Vsock && rec.Ejects && rec.Ran)
	// A VM of it that still runs gets a record of today's at the next change.
	now := testDir(t.TempDir())
	require.NoError(t, rundir.Write(now.Dir, rec))
	again, err := rundir.Read[record](now.Dir)
	require.NoError(t, err)
	assert.Equal(t, rec, again)
	assert.Equal(t, runDirs.Newest, again.Format)
	m, err := readManifest(filepath.Join(vm, "snapshots", "one", "vmm"))
	require.NoError(t, err)
	assert.Equal(t, oldConfig("/srv"), m.Config.VMConfig)
	assert.Equal(t, layoutByOrder, m.Layout)
	require.NoError(t, m.check(testContext(t), filepath.Join(vm, "snapshots", "one", "vmm"), oldConfig(dir)))

	p := testPlan(oldConfig(dir))
	p.config.SerialLogPath = rec.Config.SerialLogPath
	p.machine, p.accel, p.layout, p.dir = rec.Machine, rec.Accel, rec.Layout, testDir("/srv/vmfs/vms/web/run")
	p.set = settings{watchdog: "pause"}
	p.host.exists = func(string) bool { return false }
	args, err := p.args()
	require.NoError(t, err)
	for i := range args {
		args[i] = strings.ReplaceAll(args[i], dir, "/srv")
	}
	assert.Equal(t, rec.Args, args)

	// Restored, it stays the same but for the state that it waits for, also where the
	// kernel has a vsock device by now.
	p.incoming, p.host.exists = true, func(string) bool { return true }
	p.config.VsockSocket = filepath.Join(p.dir.String(), "vsock.sock")
	incoming, err := p.args()
	require.NoError(t, err)
	i := slices.Index(incoming, "-incoming")
	require.Positive(t, i)
	incoming = slices.Delete(incoming, i, i+2)
	for i := range incoming {
		incoming[i] = strings.ReplaceAll(incoming[i], dir, "/srv")
	}
	assert.Equal(t, rec.Args, incoming)
}

// placesOf returns where devices are, by their ids.
func placesOf(t *testing.T, p *plan) map[string]string {
	t.Helper()
	args, err := p.args()
	require.NoError(t, err)
	places := map[string]string{}
	for i, a := range args {
		if args[max(i-1, 0)] != "-device" {
			continue
		}
		values := map[string]string{}
		for _, part := range strings.Split(a, ",") {
			key, value, _ := strings.Cut(part, "=")
			values[key] = value
		}
		if values["addr"] != "" {
			assert.Equal(t, "pcie.0", values["bus"], a)
			assert.Equal(t, strings.HasSuffix(values["addr"], ".0"), values["multifunction"] == "on", a)
		}
		_, taken := places[values["addr"]]
		assert.False(t, taken && values["addr"] != "", "two devices at %s", values["addr"])
		places[values["id"]] = values["addr"]
	}
	return places
}

// TestFixedLayout holds the places of devices in layoutFixed, which must never
// change, whatever else the VM has.
func TestFixedLayout(t *testing.T) {
	disk := filepath.Join(t.TempDir(), "disk")
	require.NoError(t, os.WriteFile(disk, make([]byte, 512), 0o600))
	for _, arch := range archs {
		full := testPlan(minimal())
		full.arch, full.machine, full.layout = arch, arch.machine, arch.layout(arch.machine)
		require.Equal(t, layoutFixed, full.layout)
		few := *full
		c := &full.config
		c.HotplugBytes = mib
		full.set.watchdog = "pause"
		for range 10 {
			c.Disks = append(c.Disks, hypervisor.DiskConfig{Path: disk})
			c.Networks = append(c.Networks, hypervisor.NetworkConfig{User: true})
		}
		c.PCIDevices = []string{"0000:01:00.0", "0000:01:00.1"}
		c.VsockCID, c.VsockSocket = 3, "/run/vsock.sock"
		want := map[string]string{
			"rng0": "0x1", "balloon0": "0x2", "vm0": "0x3", "watchdog0": "0x4", "panic0": map[string]string{"x86_64": "", "aarch64": "0x5"}[arch.name],
			"vsockport": "0x6", "port0": "0x7.0", "port1": "0x7.1", "port2": "0x7.2", "port3": "0x7.3", "port7": "0x7.7",
			"blk0": "0x8.0", "blk1": "0x8.1", "blk7": "0x8.7", "blk8": "0x9.0", "blk9": "0x9.1",
			"nic0": "0x10.0", "nic1": "0x10.1", "nic7": "0x10.7", "nic8": "0x11.0", "nic9": "0x11.1",
			"pci0": "0x18.0", "pci1": "0x18.1",
		}
		places := placesOf(t, full)
		for id, at := range want {
			got, ok := places[id]
			assert.True(t, ok, id)
			assert.Equal(t, at, got, "%s on %s", id, arch.name)
		}
		few.config.Networks = []hypervisor.NetworkConfig{{User: true}}
		few.config.VsockCID = 3 // the kernel's
		places = placesOf(t, &few)
		assert.Equal(t, "0x10.0", places["nic0"])
		assert.Equal(t, "0x6", places["vsock0"])
	}
}

func TestLayoutOfMachines(t *testing.T) {
	for machine, want := range map[string]layout{"q35": layoutFixed, "pc-q35-7.2": layoutFixed, "pc": layoutByOrder, "microvm": layoutByOrder} {
		assert.Equal(t, want, archs[0].layout(machine), machine)
	}
	for machine, want := range map[string]layout{"virt": layoutFixed, "virt-7.2": layoutFixed, "sbsa-ref": layoutByOrder} {
		assert.Equal(t, want, archs[1].layout(machine), machine)
	}
}

func TestRoomInTheLayout(t *testing.T) {
	disk := filepath.Join(t.TempDir(), "disk")
	require.NoError(t, os.WriteFile(disk, make([]byte, 512), 0o600))
	p := testPlan(minimal())
	p.layout = layoutFixed
	p.config.Disks = slices.Repeat([]hypervisor.DiskConfig{{Path: disk}}, 64)
	p.config.Networks = slices.Repeat([]hypervisor.NetworkConfig{{User: true}}, 64)
	assert.Equal(t, "0xf.7", placesOf(t, p)["blk63"])
	assert.Equal(t, "0x17.7", placesOf(t, p)["nic63"])
	p.config.Disks = append(p.config.Disks, p.config.Disks[0])
	_, err := p.args()
	require.ErrorIs(t, err, hypervisor.ErrInvalid)
	assert.ErrorContains(t, err, "65 disks: a VM can have 64")
}

func TestSerials(t *testing.T) {
	disk := filepath.Join(t.TempDir(), "disk")
	require.NoError(t, os.WriteFile(disk, make([]byte, 512), 0o600))
	p := testPlan(minimal())
	p.config.Disks = []hypervisor.DiskConfig{{Path: disk}, {Path: disk, Readonly: true}}
	p.layout = layoutFixed
	args, err := p.args()
	require.NoError(t, err)
	assert.Contains(t, args, "virtio-blk-pci,id=blk1,drive=disk1,werror=stop,rerror=report,bootindex=1,serial=disk1,bus=pcie.0,addr=0x8.1")
}

// TestFreePorts plugs a device into the last of the ports that are kept free.
func TestFreePorts(t *testing.T) {
	s := newTestStarter(t)
	dir := shortDir(t)
	v := startTest(t, s, dir, bare(dir))
	add := map[string]any{"driver": "virtio-rng-pci", "id": "more", "bus": "port7"}
	require.NoError(t, v.conn.Execute(testContext(t), "device_add", add, nil))
	add["id"], add["bus"] = "none", "port8"
	require.Error(t, v.conn.Execute(testContext(t), "device_add", add, nil), "there are eight ports")
}

// manifest2 is what was written when the fields that all VMMs have stood among QEMU's.
const manifest2 = `{
	"format": "vmfs qemu snapshot 2",
	"time": "2026-11-20T10:00:00Z",
	"version": "7.2.22",
	"machine": "pc-q35-7.2",
	"layout": 1,
	"accel": "tcg",
	"config": {"vcpus": 1, "memoryBytes": 67108864, "disks": [{"path": "/images/a"}, {"path": "/images/b", "readonly": true}], "name": "web"},
	"mapped": true,
	"memory": {"file": "qemu-memory", "size": 5, "sum": "ab"},
	"disks": [{"copy": {"file": "disk0", "size": 4, "sum": "cd"}}, {"size": 3, "time": "2026-11-19T10:00:00Z"}]
}`

func TestManifest2(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, manifestFile), []byte(manifest2), 0o600))
	m, err := readManifest(dir)
	require.NoError(t, err)
	b, err := json.Marshal(m)
	require.NoError(t, err)
	assert.JSONEq(t, manifest2, string(b), "no field is lost, and none is new")

	later := strings.Replace(manifest2, `"layout": 1`, `"layout": 99`, 1)
	require.NoError(t, os.WriteFile(filepath.Join(dir, manifestFile), []byte(later), 0o600))
	_, err = readManifest(dir)
	require.ErrorIs(t, err, hypervisor.ErrInvalid)
	assert.ErrorContains(t, err, "the layout of devices is 99")
}
