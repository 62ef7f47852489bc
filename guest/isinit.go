package guest

import "path/filepath"

// IsInit reports whether a process with these arguments and this process id is
// the init of a guest that Build made: process 1, started by the kernel as
// /init. A main function that may be put into an image calls it before it looks
// at its flags, as the kernel hands over words of its own command line, and
// runs agent.Main if it says so:
//
//	if guest.IsInit(os.Args, os.Getpid()) {
//		agent.Main()
//	}
func IsInit(args []string, pid int) bool {
	return pid == 1 && len(args) > 0 && filepath.Base(args[0]) == "init"
}
