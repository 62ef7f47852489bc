//go:build !linux

package process

import (
	"context"
	"os"
	"os/exec"
	"syscall"
)

// self is this program.
func self() (string, error) { return os.Executable() }

// start starts cmd at once: there is no stage here, so that it ignores and blocks what
// the server does.
func start(cmd *exec.Cmd, user *User) (running func(context.Context) error, err error) {
	if user != nil {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: user.UID, Gid: user.GID, Groups: user.Groups}
	}
	return func(context.Context) error { return nil }, cmd.Start()
}
