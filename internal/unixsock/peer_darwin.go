package unixsock

import (
	"os"
	"os/user"
	"slices"
	"strconv"

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
	p.Groups = append(p.Groups, accountGroups(p.UID, p.Groups)...)
	if p.PID, err = unix.GetsockoptInt(fd, solLocal, unix.LOCAL_PEERPID); err != nil {
		return Peer{}, os.NewSyscallError("getsockopt", err)
	}
	return p, nil
}

// accountGroups returns the groups of the account uid that are not among known. A
// process carries sixteen groups here and no more, and the system takes it for a member
// of all those of its account, which is what getgrouplist(3) tells.
func accountGroups(uid uint32, known []uint32) (more []uint32) {
	u, err := user.LookupId(strconv.FormatUint(uint64(uid), 10))
	if err != nil {
		return nil // no account: what the process carries is all there is
	}
	ids, err := u.GroupIds()
	if err != nil {
		return nil
	}
	for _, id := range ids {
		gid, err := strconv.ParseUint(id, 10, 32)
		if err == nil && !slices.Contains(known, uint32(gid)) {
			more = append(more, uint32(gid))
		}
	}
	return more
}
