package unixsock

import (
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// solLocal is SOL_LOCAL of <sys/un.h>.
const solLocal = 0

func peerOf(fd int) (Peer, error) {
	cred, err := unix.GetsockoptXucred(fd, solLocal, unix.LOCAL_PEERCRED)
	if err != nil {
		return Peer{}, os.NewSyscallError("getsockopt", err)
	}
	p := Peer{UID: cred.Uid, Groups: slices.Clone(cred.Groups[:max(0, min(int(cred.Ngroups), len(cred.Groups)))])}
	if len(p.Groups) > 0 {
		p.GID = p.Groups[0]
	}
	if p.PID, err = unix.GetsockoptInt(fd, solLocal, unix.LOCAL_PEERPID); err != nil {
		return Peer{}, os.NewSyscallError("getsockopt", err)
	}
	return p, nil
}
