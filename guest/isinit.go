package guest

import "path/filepath"

// IsInit reports whether a process with these arguments and this process id is
// the agent of a guest that Build made: process 1, started by the kernel as
// /init, or the guest's tool vsock, which is a link to it. A main function that
// may be put into an image calls it before it looks at its flags, as the kernel
// hands over words of its own command line, and runs agent.Main if it says so:
//
//	if guest.IsInit(os.Args, os.Getpid()) {
//		agent.Main()
//		return
//	}
func IsInit(args []string, pid int) bool {
	if len(args) == 0 {
		return false
	}
	name := filepath.Base(args[0])
	return pid == 1 && name == "init" || name == "vsock"
}
