package ring

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestPCI passes a device of the host to a guest.
func TestPCI(t *testing.T) { each(t, testPCI) }

func testPCI(t *testing.T, b backend) {
	path(t)
	full := os.Getenv("VMFS_GUEST_IMAGE_FULL")
	require.FileExists(t, full+"/initrd", "the test host is to be run with -guests")
	device := strings.TrimSpace(run(t, "root", "for d in /sys/bus/pci/devices/*; do [ $(cat $d/vendor)$(cat $d/device) != 0x80860x10d3 ] || basename $d; done"))
	require.NotEmpty(t, device, "the host's e1000e")
	run(t, "root", "echo vfio-pci >/sys/bus/pci/devices/"+device+"/driver_override; echo "+device+" >/sys/bus/pci/drivers_probe; ls /dev/vfio/[0-9]*")

	h := serve(t, t.TempDir())
	defer h.end(t)
	t.Setenv("VMFS_ADDR", "unix!"+socket)
	run(t, "root", "mkdir /n/web")
	assert.Contains(t, run(t, "root", "cat /n/web/capabilities"), "snapshot")
	run(t, "root", fmt.Sprintf(`printf '%%s\n' hypervisor=%s memory=256M vsock.cid=3 kernel=%s/vmlinuz initrd=%s/initrd 'args=quiet no_timer_check' pci=%s >/n/web/config`, b.name, full, full, device))
	assert.NotContains(t, run(t, "root", "cat /n/web/capabilities"), "snapshot")
	run(t, "root", "echo start >/n/web/ctl")
	b.started(t, "web")
	awaitGuest(t, "web")
	assert.Equal(t, "0x8086 0x10d3\n", run(t, "root", "vmfs exec web sh -c 'cd /sys/class/net/eth0/device && echo $(cat vendor) $(cat device)'"), "the guest's own driver has it")
	refused(t, "root", "echo snapshot one >/n/web/ctl", "")
	assert.Contains(t, run(t, "root", "cat /n/web/error"), `web has no capability "snapshot"`)
	assert.Equal(t, "running\n", run(t, "root", "cat /n/web/state"), "it was not touched")
	run(t, "root", "echo poweroff >/n/web/ctl; echo wait shutdown 60s >/n/web/ctl")
}
