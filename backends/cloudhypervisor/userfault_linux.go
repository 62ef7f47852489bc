package cloudhypervisor

import (
	"os"

	"golang.org/x/sys/unix"
)

// canFault tells whether a VMM of this user may handle its guest's page faults, as it must to
// read memory when the guest wants it: by the device, or by the system call, which the kernel
// lets everybody use or those with a capability.
func canFault() bool {
	if f, err := os.OpenFile("/dev/userfaultfd", os.O_RDWR, 0); err == nil {
		_ = f.Close()
		return true
	}
	fd, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC|unix.O_NONBLOCK, 0, 0)
	if errno != 0 {
		return false
	}
	_ = unix.Close(int(fd))
	return true
}
