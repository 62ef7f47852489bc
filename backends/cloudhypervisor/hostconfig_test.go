package cloudhypervisor

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/cloudhypervisor/api"
	"vmfs/backends/hypervisor"
)

// savedConfig is a snapshot's configuration with fields that vmfs does not know.
const savedConfig = `{
	"cpus": {"boot_vcpus": 2, "max_vcpus": 2, "kvm_hyperv": false},
	"memory": {"size": 9007199254740993, "hotplugged_size": 134217728, "thp": true},
	"payload": {"firmware": null, "kernel": "/old/vmlinuz", "cmdline": "quiet", "initramfs": "/old/initrd", "new_in_v99": [1, 2]},
	"disks": [
		{"id": "disk1", "path": "/old/b", "readonly": true, "queue_size": 128, "image_type": "Raw",
			"rate_limiter_config": {"bandwidth": {"size": 1, "refill_time": 1, "one_time_burst": null}, "ops": null}},
		{"id": "disk0", "path": "/old/a", "readonly": false, "queue_size": 64, "image_type": "Raw", "rate_limiter_config": null}
	],
	"net": [{"id": "net0", "mac": "52:54:00:00:00:01", "fds": [17], "num_queues": 2}],
	"serial": {"mode": "Socket", "file": null, "socket": "/old/serial.sock"},
	"console": {"mode": "Off", "file": null, "socket": null, "iommu": false},
	"vsock": {"id": "vsock0", "cid": 3, "socket": "/old/vsock.sock", "pci_segment": 0},
	"platform": {"num_pci_segments": 1, "system_uuid": "11111111-2222-3333-4444-555555555555"},
	"of_a_later_version": {"a": 1.50}
}`

func here() *api.VMConfig {
	return &api.VMConfig{
		CPUs: api.CPUs{Boot: 1, Max: 1}, Memory: api.Memory{Size: 1},
		Payload: api.Payload{Kernel: "/new/vmlinuz", Cmdline: "console=ttyS0"},
		Disks: []api.Disk{
			{ID: "disk0", Path: "/new/a", RateLimiter: &api.RateLimiter{Bandwidth: &api.TokenBucket{Size: 5, RefillTime: 100}}},
			{ID: "disk1", Path: "/new/b"},
		},
		Serial:   api.Console{Mode: api.ConsoleSocket, Socket: "/new/serial.sock"},
		Console:  api.Console{Mode: api.ConsoleOff},
		Vsock:    &api.Vsock{ID: "vsock0", CID: 4, Socket: "/new/vsock.sock"},
		Platform: &api.Platform{UUID: "66666666-2222-3333-4444-555555555555"},
	}
}

// TestLayHost restores elsewhere: what is the host's is of here, and the rest, known or not,
// as it was.
func TestLayHost(t *testing.T) {
	got, err := layHost([]byte(savedConfig), here())
	require.NoError(t, err)
	assert.JSONEq(t, `{
		"cpus": {"boot_vcpus": 2, "max_vcpus": 2, "kvm_hyperv": false},
		"memory": {"size": 9007199254740993, "hotplugged_size": 134217728, "thp": true},
		"payload": {"kernel": "/new/vmlinuz", "cmdline": "console=ttyS0", "new_in_v99": [1, 2]},
		"disks": [
			{"id": "disk1", "path": "/new/b", "readonly": true, "queue_size": 128, "image_type": "Raw"},
			{"id": "disk0", "path": "/new/a", "readonly": false, "queue_size": 64, "image_type": "Raw",
				"rate_limiter_config": {"bandwidth": {"size": 5, "refill_time": 100}}}
		],
		"net": [{"id": "net0", "mac": "52:54:00:00:00:01", "fds": [17], "num_queues": 2}],
		"serial": {"mode": "Socket", "socket": "/new/serial.sock"},
		"console": {"mode": "Off", "iommu": false},
		"vsock": {"id": "vsock0", "cid": 4, "socket": "/new/vsock.sock", "pci_segment": 0},
		"platform": {"num_pci_segments": 1, "system_uuid": "66666666-2222-3333-4444-555555555555"},
		"of_a_later_version": {"a": 1.50}
	}`, string(got))
	assert.Contains(t, string(got), "9007199254740993", "a size keeps all its digits")
	assert.Contains(t, string(got), "1.50")

	// A VM that had no identity gets one.
	var c map[string]any
	require.NoError(t, json.Unmarshal([]byte(savedConfig), &c))
	c["platform"] = nil
	b, err := json.Marshal(c)
	require.NoError(t, err)
	got, err = layHost(b, here())
	require.NoError(t, err)
	assert.Contains(t, string(got), `"platform":{"system_uuid":"66666666`)
}

func TestLayHostRefuses(t *testing.T) {
	for says, change := range map[string]func(*api.VMConfig){
		`another "disks"`: func(c *api.VMConfig) { c.Disks = c.Disks[:1] },
		`"disks" than`:    func(c *api.VMConfig) { c.Disks[0].ID = "other" },
		`another "vsock"`: func(c *api.VMConfig) { c.Vsock = nil },
		`"disks"`:         func(c *api.VMConfig) { c.Disks = nil },
	} {
		c := here()
		change(c)
		_, err := layHost([]byte(savedConfig), c)
		require.ErrorIs(t, err, hypervisor.ErrInvalid)
		assert.ErrorContains(t, err, says)
	}
	for _, text := range []string{"", "null", "[]", `{"disks": 1}`, `{"vsock": {"id": "vsock0"}}`} {
		_, err := layHost([]byte(text), here())
		require.ErrorIs(t, err, hypervisor.ErrInvalid, text)
	}
}
