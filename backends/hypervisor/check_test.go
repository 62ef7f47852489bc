package hypervisor_test

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/hypervisor"
	"vmfs/backends/hypervisor/hypervisortest"
)

func TestCheck(t *testing.T) {
	whole := hypervisor.VMConfig{MemoryBytes: 512 << 20}
	require.NoError(t, whole.Check())
	for _, c := range hypervisortest.InvalidConfigs() {
		config := whole
		c.Make(&config)
		err := config.Check()
		require.ErrorIs(t, err, hypervisor.ErrInvalid, c.Name)
		assert.ErrorContains(t, err, c.Says, c.Name)
		assert.NotContains(t, err.Error(), hypervisor.ErrInvalid.Error(), c.Name)
	}
	for _, c := range hypervisortest.OddConfigs() {
		config := whole
		c.Make(&config)
		assert.NoError(t, config.Check(), c.Name)
	}
}

func TestForward(t *testing.T) {
	for rule, want := range map[string]hypervisor.Forward{
		"tcp:127.0.0.1:2222:22": {Proto: "tcp", Addr: netip.MustParseAddr("127.0.0.1"), HostPort: 2222, GuestPort: 22},
		"udp::1:65535":          {Proto: "udp", HostPort: 1, GuestPort: 65535},
		"tcp::80:80":            {Proto: "tcp", HostPort: 80, GuestPort: 80},
		"tcp:[fe80::1]:1:2":     {Proto: "tcp", Addr: netip.MustParseAddr("fe80::1"), HostPort: 1, GuestPort: 2},
	} {
		got, err := hypervisor.ParseForward(rule)
		require.NoError(t, err, rule)
		assert.Equal(t, want, got)
	}
	for _, rule := range []string{
		"", "tcp", "tcp:", "tcp:1", "tcp::1", "tcp::1:0", "tcp::65536:1", "sctp::1:1", "tcp:::1:1:1", "tcp:[1.2.3.4]:1:1",
		"tcp:1.2.3.4,x=y:1:1", "tcp::1:1,restrict=off", "tcp:::1:2", "tcp:[fe80::1%eth0]:1:2", "tcp:[::1:1:2", "tcp:::1]:1:2",
	} {
		_, err := hypervisor.ParseForward(rule)
		require.ErrorIs(t, err, hypervisor.ErrInvalid, rule)
	}
}

func TestPCIDevice(t *testing.T) {
	for device, want := range map[string][2]string{
		"0000:01:00.0": {"0000:01:00.0", ""},
		"0A:1f.7":      {"0000:0A:1f.7", ""},
		"/sys/bus/pci/devices/../devices/0000:02:00.0": {"", "/sys/bus/pci/devices/0000:02:00.0"},
		"83B8F4F2-509f-382f-3c1e-e6bfe0fa1001":         {"", "/sys/bus/mdev/devices/83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"},
	} {
		address, dir, err := hypervisor.PCIDevice(device)
		require.NoError(t, err)
		assert.Equal(t, want, [2]string{address, dir})
	}
}

func FuzzCheck(f *testing.F) {
	hypervisortest.FuzzConfigs(f, func(t *testing.T, c hypervisor.VMConfig) {
		if err := c.Check(); err != nil && !errors.Is(err, hypervisor.ErrInvalid) {
			t.Error(err)
		}
	})
}
