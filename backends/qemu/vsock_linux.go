package qemu

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// vhostVsockSetGuestCID is VHOST_VSOCK_SET_GUEST_CID of linux/vhost.h.
const vhostVsockSetGuestCID = 0x4008af60

// takeCID takes a CID of the host kernel's and gives it back. syscall.EADDRINUSE
// means that another guest has it; with any other error nothing is known.
func takeCID(cid int64) error {
	f, err := os.OpenFile(vhostVsock, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	v := uint64(cid)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), vhostVsockSetGuestCID, uintptr(unsafe.Pointer(&v))); errno != 0 {
		return os.NewSyscallError("ioctl VHOST_VSOCK_SET_GUEST_CID", errno)
	}
	return nil
}
