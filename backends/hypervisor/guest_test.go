package hypervisor

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestMACsDiffer(t *testing.T) {
	seen := map[string]bool{}
	for _, uuid := range []string{"a", "b"} {
		for i := range 2 {
			c := VMConfig{UUID: uuid, Networks: make([]NetworkConfig, 2)}
			mac := c.MAC(i)
			assert.Equal(t, mac, c.MAC(i))
			assert.False(t, seen[mac], "%s twice", mac)
			seen[mac] = true
			assert.True(t, strings.HasPrefix(mac, "52:54:00:"), mac)
		}
	}
}

func TestGuestArgs(t *testing.T) {
	nets := []NetworkConfig{{TAPDevice: "a"}, {TAPDevice: "b", IP: "192.0.2.7", Netmask: "255.255.255.0"}}
	for args, want := range map[string]string{
		"":                   "console=ttyS0 ip=192.0.2.7:::255.255.255.0::eth1:off",
		"quiet":              "console=ttyS0 ip=192.0.2.7:::255.255.255.0::eth1:off quiet",
		"console=tty0 ip=on": "console=tty0 ip=on",
		"zip=1":              "console=ttyS0 ip=192.0.2.7:::255.255.255.0::eth1:off zip=1",
	} {
		c := VMConfig{KernelArgs: args, Networks: nets}
		assert.Equal(t, want, c.GuestArgs("ttyS0"))
	}
}
