package stored

import (
	"encoding/json"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/hypervisor"
)

// fill sets every field below v to something else than zero.
func fill(v reflect.Value, n *int) {
	*n++
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), n)
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), n)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(v.Index(0), n)
		fill(v.Index(1), n)
	case reflect.Map:
		v.Set(reflect.ValueOf(map[string]string{"k" + strconv.Itoa(*n): "v"}))
	case reflect.String:
		v.SetString("s" + strconv.Itoa(*n))
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(*n))
	case reflect.Bool:
		v.SetBool(true)
	default:
		panic(v.Type())
	}
}

// TestEveryField fails where a configuration has a field that is not kept.
func TestEveryField(t *testing.T) {
	var c Config
	n := 0
	fill(reflect.ValueOf(&c.VMConfig).Elem(), &n)
	b, err := json.Marshal(c)
	require.NoError(t, err)
	var again Config
	require.NoError(t, json.Unmarshal(b, &again))
	assert.Equal(t, c, again)

	// As it was written at first: VMConfig as it is.
	b, err = json.Marshal(c.VMConfig)
	require.NoError(t, err)
	var old Config
	require.NoError(t, json.Unmarshal(b, &old))
	assert.Equal(t, c, old)
}

// TestNames holds the names on disk, whatever the fields are called.
func TestNames(t *testing.T) {
	const text = `{"vcpus":2,"memoryBytes":3,"hotplugBytes":4,"topology":{"threadsPerCore":1,"coresPerDie":2,"diesPerPackage":3,"packages":4},` +
		`"disks":[{"path":"/d","readonly":true,"ioBps":5,"ioBurstBps":6,"format":"qcow2","size":512}],` +
		`"networks":[{"tapDevice":"t","bridge":"b","ip":"i","mac":"m","netmask":"n","user":true,"passt":true,"forwards":["f"]}],` +
		`"serialLogPath":"/s","vsockCID":7,"vsockSocket":"/v","pciDevices":["p"],"kernelPath":"/k","initrdPath":"/i","kernelArgs":"a",` +
		`"name":"n","uuid":"u","logPath":"/l","extras":{"e":"x"}}`
	var c Config
	require.NoError(t, json.Unmarshal([]byte(text), &c))
	assert.Equal(t, hypervisor.VMConfig{
		VCPUs: 2, MemoryBytes: 3, HotplugBytes: 4,
		Topology:      &hypervisor.CPUTopology{ThreadsPerCore: 1, CoresPerDie: 2, DiesPerPackage: 3, Packages: 4},
		Disks:         []hypervisor.DiskConfig{{Path: "/d", Readonly: true, IOBps: 5, IOBurstBps: 6, Format: "qcow2", Size: 512}},
		Networks:      []hypervisor.NetworkConfig{{TAPDevice: "t", Bridge: "b", IP: "i", MAC: "m", Netmask: "n", User: true, Passt: true, Forwards: []string{"f"}}},
		SerialLogPath: "/s", VsockCID: 7, VsockSocket: "/v", PCIDevices: []string{"p"}, KernelPath: "/k", InitrdPath: "/i", KernelArgs: "a",
		Name: "n", UUID: "u", LogPath: "/l", Extras: map[string]string{"e": "x"},
	}, c.VMConfig)
	b, err := json.Marshal(c)
	require.NoError(t, err)
	assert.Equal(t, text, string(b))
}

func TestLay(t *testing.T) {
	saved := func() hypervisor.VMConfig {
		return hypervisor.VMConfig{
			VCPUs: 1, MemoryBytes: 1 << 28, HotplugBytes: 1 << 20, Disks: []hypervisor.DiskConfig{{Path: "/a"}, {Path: "/b", Readonly: true}},
			Networks: []hypervisor.NetworkConfig{{User: true}}, KernelPath: "/k", KernelArgs: "quiet", VsockCID: 3, VsockSocket: "/v",
			Name: "web", UUID: "u", LogPath: "/log", SerialLogPath: "/serial", Extras: map[string]string{"x.cpu": "max", "x.binary": "/bin/x"},
		}
	}
	there := hypervisor.VMConfig{
		MemoryBytes: 1 << 30, HotplugBytes: 1 << 20, Topology: &hypervisor.CPUTopology{},
		Disks:    []hypervisor.DiskConfig{{Path: "/other/a", IOBps: 1, Format: hypervisor.DiskRaw}, {Path: "/other/b", Readonly: true}},
		Networks: []hypervisor.NetworkConfig{{TAPDevice: "tap0"}}, KernelPath: "/other/k", VsockCID: 4, VsockSocket: "/other/v",
		Name: "twin", UUID: "w", LogPath: "/other/log", SerialLogPath: "/other/serial", Extras: map[string]string{"x.cpu": "max", "x.binary": "/other/x"},
	}
	got, err := Lay(saved(), there, "x.binary")
	require.NoError(t, err)
	want := there
	want.VCPUs, want.MemoryBytes, want.Topology = 1, 1<<28, nil
	assert.Equal(t, want, got)

	kernels := saved()
	kernels.VsockSocket = ""
	got, err = Lay(kernels, there, "x.binary")
	require.NoError(t, err)
	assert.Empty(t, got.VsockSocket, "the kernel's device is restored as one")

	for says, change := range map[string]func(*hypervisor.VMConfig){
		"virtual CPUs":                  func(c *hypervisor.VMConfig) { c.VCPUs = 2 },
		"and their topology":            func(c *hypervisor.VMConfig) { c.Topology = &hypervisor.CPUTopology{Packages: 1} },
		"hotplug":                       func(c *hypervisor.VMConfig) { c.HotplugBytes = 0 },
		"disks":                         func(c *hypervisor.VMConfig) { c.Disks = c.Disks[:1] },
		"disks, by format and readonly": func(c *hypervisor.VMConfig) { c.Disks[0].Format = hypervisor.DiskQCOW2 },
		"readonly":                      func(c *hypervisor.VMConfig) { c.Disks[0].Readonly = true },
		"size of disks":                 func(c *hypervisor.VMConfig) { c.Disks[0].Size = 1 << 20 },
		"networks":                      func(c *hypervisor.VMConfig) { c.Networks = nil },
		"PCI devices":                   func(c *hypervisor.VMConfig) { c.PCIDevices = []string{"p"} },
		"vsock":                         func(c *hypervisor.VMConfig) { c.VsockCID = 0 },
		"vsock device":                  func(c *hypervisor.VMConfig) { c.VsockSocket = "" },
		"kernel":                        func(c *hypervisor.VMConfig) { c.KernelPath = "" },
		"settings":                      func(c *hypervisor.VMConfig) { c.Extras = map[string]string{"x.cpu": "min"} },
	} {
		c := saved()
		change(&c)
		_, err := Lay(saved(), c, "x.binary")
		require.ErrorIs(t, err, hypervisor.ErrInvalid, says)
		assert.True(t, strings.Contains(err.Error(), says), "%v", err)
	}
}
