package machine

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"vmfs/internal/unixsock"
)

const (
	maxName = 63
	// roomyName is the length of a name that every VM should be able to have.
	roomyName = 32
	// longestSocket is the longest name of a socket in a VM's run-time directory: where
	// its guest's connections to the last of the vsock ports arrive.
	longestSocket = vsockSocketName + "_4294967294"
)

// nameRoom returns how long a VM's name can be before the paths of its sockets
// are too long for Unix sockets.
func nameRoom(vmsDir string) int {
	return unixsock.MaxPath - len(filepath.Join(vmsDir, "x", runDir, longestSocket)) + 1
}

// checkRoom refuses a name for which the state directory's path is too long.
func checkRoom(vmsDir, name string) error {
	if room := nameRoom(vmsDir); len(name) > room {
		return &nameError{name, fmt.Sprintf("it is longer than %d characters: with this state directory the path of a socket of the VM would be longer than %d bytes",
			max(room, 0), unixsock.MaxPath)}
	}
	return nil
}

// checkName is CheckName, and refuses what the served tree has files of.
func (h *Host) checkName(name string) error {
	if slices.Contains(h.opts.Reserved, name) {
		return &takenError{name}
	}
	return CheckName(name)
}

// CheckName returns nil for a name that a VM or a snapshot can have: 1 to 63 of the
// characters A-Z a-z 0-9 . _ -, not starting with a dot or a dash. The error is an ErrName.
func CheckName(name string) error {
	const allowed = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"
	switch {
	case name == "":
		return &nameError{name, "it is empty"}
	case len(name) > maxName:
		return &nameError{name, "it is longer than 63 characters"}
	case name[0] == '.' || name[0] == '-':
		return &nameError{name, "it starts with a dot or a dash"}
	case strings.Trim(name, allowed) != "" || strings.ContainsFunc(name, func(r rune) bool { return !strings.ContainsRune(allowed, r) }):
		return &nameError{name, "only letters, digits, dots, underscores and dashes are allowed"}
	}
	return nil
}
