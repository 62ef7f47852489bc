package hypervisor

import (
	"crypto/sha256"
	"fmt"
	"net"
	"strconv"
	"strings"
)

// MAC returns the address of the i-th network's device: the one set, or one that is the
// same at every start of this VM and another for every other VM.
func (c *VMConfig) MAC(i int) string {
	if hw, err := net.ParseMAC(c.Networks[i].MAC); err == nil {
		return hw.String()
	}
	sum := sha256.Sum256([]byte(c.UUID + "\x00" + c.Name + "\x00" + strconv.Itoa(i)))
	return net.HardwareAddr{0x52, 0x54, 0x00, sum[0], sum[1], sum[2]}.String()
}

// GuestArgs returns the kernel's arguments with those in front that the guest could not
// know: which device its console is, unless one is set, and its addresses, each as
// ip=CLIENT:SERVER:GATEWAY:NETMASK:HOST:DEVICE:AUTOCONF. Linux names the devices in the
// order of their PCI addresses, which is to be that of the configuration.
func (c *VMConfig) GuestArgs(console string) string {
	var words []string
	if !hasWord(c.KernelArgs, "console=") {
		words = append(words, "console="+console)
	}
	if !hasWord(c.KernelArgs, "ip=") {
		for i, n := range c.Networks {
			if n.IP != "" {
				words = append(words, fmt.Sprintf("ip=%s:::%s::eth%d:off", n.IP, n.Netmask, i))
			}
		}
	}
	if c.KernelArgs != "" {
		words = append(words, c.KernelArgs)
	}
	return strings.Join(words, " ")
}

func hasWord(args, prefix string) bool {
	for _, w := range strings.Fields(args) {
		if strings.HasPrefix(w, prefix) {
			return true
		}
	}
	return false
}
