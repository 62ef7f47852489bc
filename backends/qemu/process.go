package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// A child is a QEMU that this server started, or a passt. A goroutine of its own waits for
// its end for as long as the server lives, beyond the handle's Close, since
// somebody has to.
type child struct {
	cmd  *exec.Cmd
	log  string
	from int64 // where in the log the output of this start begins
	// beside are the passts of a QEMU. They end when it does.
	beside []*child

	ended chan struct{} // closed when the process was waited for; err is set then
	err   error         // how it ended
}

// spawn starts a program in a session of its own, with the given files from
// firstFile on and no others, and its output appended to the file log, but for its
// standard output where that is given.
func spawn(path string, args []string, files []*os.File, stdout *os.File, log string) (*child, error) {
	out, err := os.OpenFile(log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("log: %w", err)
	}
	defer out.Close()
	fi, err := out.Stat()
	if err != nil {
		return nil, fmt.Errorf("log: %w", err)
	}
	cmd := exec.Command(path, args...)
	cmd.Env = environment()
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = out, out // files: no goroutine copies them
	if stdout != nil {
		cmd.Stdout = stdout
	}
	cmd.ExtraFiles = files
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	c := &child{cmd: cmd, log: log, from: fi.Size(), ended: make(chan struct{})}
	go func() { // ends with the process
		c.err = cmd.Wait()
		close(c.ended)
	}()
	return c, nil
}

func (c *child) pid() int { return c.cmd.Process.Pid }

// how says how the process ended, "" while it runs.
func (c *child) how() string {
	select {
	case <-c.ended:
	default:
		return ""
	}
	var exit *exec.ExitError
	switch {
	case c.err == nil:
		return "exit status 0"
	case errors.As(c.err, &exit):
		return exit.Error()
	default:
		return c.err.Error()
	}
}

// killWait bounds the wait for a killed process. One that is in a system call that
// cannot be interrupted ends later.
const killWait = 10 * time.Second

// kill ends the process at once, with those beside it, and waits for them.
func (c *child) kill() error {
	err := c.cmd.Process.Kill()
	if err == nil || errors.Is(err, os.ErrProcessDone) {
		err = c.await(context.Background(), killWait)
	}
	for _, b := range c.beside {
		err = errors.Join(err, b.kill())
	}
	return err
}

// await waits for the process's end.
func (c *child) await(ctx context.Context, most time.Duration) error {
	timer := time.NewTimer(most)
	defer timer.Stop()
	select {
	case <-c.ended:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return fmt.Errorf("process %d does not end", c.pid())
	}
}

// tailMax bounds what of QEMU's words goes into an error.
const tailMax = 2000

// said is the end of what QEMU printed in this start, as one line.
func (c *child) said() string {
	f, err := os.Open(c.log)
	if err != nil {
		return ""
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return ""
	}
	from := max(c.from, fi.Size()-tailMax)
	b, err := io.ReadAll(io.NewSectionReader(f, from, tailMax))
	if err != nil {
		return ""
	}
	var lines []string
	for line := range strings.Lines(string(b)) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "; ")
}
