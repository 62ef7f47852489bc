// Command testdevice is the device as a process of its own, for tests that kill it.
package main

import (
	"os"

	"vmfs/vsock/vhostuser"
)

func main() { os.Exit(vhostuser.Command(os.Args[1:])) }
