package vz

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/hypervisor"
	"vmfs/backends/hypervisor/hypervisortest"
	"vmfs/backends/vz/shimconfig"
)

func valid() hypervisor.VMConfig {
	return hypervisor.VMConfig{
		Name: "web", UUID: "6ba7b810-9dad-11d1-80b4-00c04fd430c8", VCPUs: 2, MemoryBytes: 256 << 20, HotplugBytes: 256 << 20, KernelPath: "/k",
	}
}

// TestRefused is what the framework can never do: each is refused when it is written, with
// the reason and what to do.
func TestRefused(t *testing.T) {
	s := New(Config{})
	for name, c := range map[string]struct {
		change func(*hypervisor.VMConfig)
		is     error
		says   string
	}{
		"qcow2": {func(c *hypervisor.VMConfig) {
			c.Disks = []hypervisor.DiskConfig{{Path: "/d", Format: hypervisor.DiskQCOW2}}
		}, hypervisor.ErrNotSupported, "qemu-img convert -O raw /d /d.raw"},
		"a limit": {func(c *hypervisor.VMConfig) {
			c.Disks = []hypervisor.DiskConfig{{Path: "/d", IOBps: 1 << 20}}
		}, hypervisor.ErrNotSupported, "cannot limit a disk's throughput"},
		"a PCI device": {func(c *hypervisor.VMConfig) { c.PCIDevices = []string{"0000:01:00.0"} }, hypervisor.ErrNotSupported, "cannot give a guest a device"},
		"a topology": {func(c *hypervisor.VMConfig) {
			c.Topology = &hypervisor.CPUTopology{CoresPerDie: 2}
		}, hypervisor.ErrNotSupported, "set vcpus alone"},
		"a tap": {func(c *hypervisor.VMConfig) { c.Networks = []hypervisor.NetworkConfig{{TAPDevice: "vm0"}} }, hypervisor.ErrNotSupported, "macOS has no taps"},
		"passt": {func(c *hypervisor.VMConfig) { c.Networks = []hypervisor.NetworkConfig{{Passt: true}} }, hypervisor.ErrNotSupported, "use net=user"},
		"a forward": {func(c *hypervisor.VMConfig) {
			c.Networks = []hypervisor.NetworkConfig{{User: true, Forwards: []string{"tcp::80:80"}}}
		}, hypervisor.ErrNotSupported, "forwards no ports"},
		"a setting": {func(c *hypervisor.VMConfig) { c.Extras = map[string]string{"vz.rosetta": "yes"} }, hypervisor.ErrInvalid, "unknown setting vz.rosetta"},
		"a cache":   {func(c *hypervisor.VMConfig) { c.Extras = map[string]string{keyCaching: "always"} }, hypervisor.ErrInvalid, "automatic, cached, uncached"},
		"a socket":  {func(c *hypervisor.VMConfig) { c.Extras = map[string]string{keyNetSocket: "/s"} }, hypervisor.ErrInvalid, "add net=user"},
		"a socket here": {func(c *hypervisor.VMConfig) {
			c.Extras = map[string]string{keyNetSocket: "s"}
			c.Networks = []hypervisor.NetworkConfig{{User: true}}
		}, hypervisor.ErrInvalid, "absolute path"},
	} {
		t.Run(name, func(t *testing.T) {
			config := valid()
			c.change(&config)
			err := s.CheckConfig(config)
			require.ErrorIs(t, err, c.is)
			assert.ErrorContains(t, err, c.says)
		})
	}
	require.NoError(t, s.CheckConfig(valid()))
}

// TestShimConfig is what the shim is told.
func TestShimConfig(t *testing.T) {
	dir, err := dirOf("/run/web/vz.sock")
	require.NoError(t, err)
	c := valid()
	c.KernelArgs, c.VsockCID, c.SerialLogPath, c.SerialLogMax = "quiet", 77, "/console.log", 1<<20
	c.Disks = []hypervisor.DiskConfig{{Path: "/d", Readonly: true}}
	c.Networks = []hypervisor.NetworkConfig{{User: true}, {Bridge: "en0", MAC: "02:00:00:00:00:01"}}
	c.Extras = map[string]string{keySync: "full", keyNetSocket: "/gvproxy.sock"}
	dir.placeVsock(&c)
	got, err := shimConfig(dir, &c)
	require.NoError(t, err)
	assert.Equal(t, &shimconfig.Config{
		Version: shimconfig.Version, Name: "web", UUID: c.UUID, CPUs: 2, Memory: 512 << 20, Target: 256 << 20,
		Boot:  shimconfig.Boot{Linux: &shimconfig.Linux{Kernel: "/k", Args: "console=hvc0 quiet"}},
		Disks: []shimconfig.Disk{{Path: "/d", Readonly: true, Caching: shimconfig.CachingCached, Sync: shimconfig.SyncFull}},
		Nets: []shimconfig.Net{
			{Kind: shimconfig.NetFile, MAC: c.MAC(0), FD: firstNet}, {Kind: shimconfig.NetBridged, MAC: "02:00:00:00:00:01", Interface: "en0"},
		},
		Vsock:   &shimconfig.Vsock{Socket: "/run/web/vsock.sock"},
		Console: shimconfig.Console{Socket: "/run/web/console.sock", Log: "/console.log", LogMax: 1 << 20},
	}, got)
	require.NoError(t, got.Check())

	c = valid()
	c.KernelPath, c.HotplugBytes = "", 0
	got, err = shimConfig(dir, &c)
	require.NoError(t, err)
	assert.Equal(t, shimconfig.Boot{EFI: &shimconfig.EFI{Variables: "/run/web/vz.efi"}}, got.Boot)
	assert.Zero(t, got.Target, "it has what it boots with")
	assert.Equal(t, shimconfig.NetNAT, func() shimconfig.NetKind {
		c.Networks = []hypervisor.NetworkConfig{{User: true}}
		got, err := shimConfig(dir, &c)
		require.NoError(t, err)
		return got.Nets[0].Kind
	}())
}

// TestOddConfigs has what check takes be a configuration of the shim's.
func TestOddConfigs(t *testing.T) {
	dir, err := dirOf("/run/web/vz.sock")
	require.NoError(t, err)
	taken := 0
	for _, odd := range hypervisortest.OddConfigs() {
		c := valid()
		odd.Make(&c)
		got, err := shimConfig(dir, &c)
		if err != nil {
			assert.ErrorIs(t, err, hypervisor.ErrNotSupported, odd.Name)
			continue
		}
		taken++
		assert.NoError(t, got.Check(), odd.Name)
	}
	assert.Greater(t, taken, 4)
}

// TestRoundTarget has every target be a step of the framework's.
func TestRoundTarget(t *testing.T) {
	for _, c := range []hypervisor.VMConfig{{MemoryBytes: 256 << 20}, {MemoryBytes: 255 << 20, HotplugBytes: 512<<20 + 1}, {MemoryBytes: 16 << 20}} {
		most := ceiling(&c)
		assert.Zero(t, most%(1<<20))
		for bytes := int64(hypervisor.MinMemory); bytes <= c.MemoryBytes+c.HotplugBytes; bytes += 3<<20 + 7 {
			target := roundTarget(&c, bytes)
			assert.InDelta(t, bytes, target, float64(memoryStep))
			assert.Zero(t, target%(1<<20))
			assert.LessOrEqual(t, target, most)
			assert.GreaterOrEqual(t, target, int64(hypervisor.MinMemory))
		}
	}
}
