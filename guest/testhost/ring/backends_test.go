package ring

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

// A backend is what the stories have to know of one.
type backend struct {
	name string // of hypervisor=
	// program is the VMM's, of which a host may have none; "" is one that is there.
	program string
	// started looks at the VMM of a VM that was started or restored.
	started func(t *testing.T, vm string)
	// kernelVsock tells that the guest's CID is known to the host's kernel.
	kernelVsock bool
}

var backends = []backend{
	{
		name:        "qemu",
		kernelVsock: true,
		started: func(t *testing.T, vm string) {
			args := cmdline(t, vm)
			assert.Contains(t, args, "-accel kvm", "qemu.accel=auto took: %s", args)
			assert.Contains(t, args, "vhost-vsock-pci", "the kernel's vsock")
			if strings.Contains(args, "-netdev") {
				assert.Contains(t, args, "vhost=on", "the kernel's vhost-net")
			}
		},
	},
	{
		name:    "cloud-hypervisor",
		program: "cloud-hypervisor",
		started: func(t *testing.T, vm string) {
			exe := run(t, "root", "readlink /proc/$(cat "+tree+"/"+vm+"/pid)/exe")
			assert.Equal(t, "cloud-hypervisor", filepath.Base(strings.TrimSpace(exe)))
		},
	},
}

// each runs a story on every back end whose VMM is there. One that $VMFS_CLOUD_HYPERVISOR
// names has to be.
func each(t *testing.T, story func(t *testing.T, b backend)) {
	needHost(t)
	for _, b := range backends {
		t.Run(b.name, func(t *testing.T) {
			if b.program != "" && os.Getenv("VMFS_CLOUD_HYPERVISOR") == "" {
				if _, err := exec.LookPath(b.program); err != nil {
					t.Skipf("no %s in PATH and none named by $VMFS_CLOUD_HYPERVISOR", b.program)
				}
			}
			story(t, b)
		})
	}
}
