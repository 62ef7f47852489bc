//go:build !linux

package agent

import (
	"fmt"
	"os"
	"runtime"
)

// Main is the init of a Linux guest.
func Main() {
	fmt.Fprintf(os.Stderr, "vmfs guest init: this is the init of a Linux guest; it does not run on %s\n", runtime.GOOS)
	os.Exit(1)
}
