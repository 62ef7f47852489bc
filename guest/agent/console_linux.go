package agent

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"
)

// console is where the agent's lines and the console shell's output go. A line
// of the agent never blocks: a serial line that nobody reads must not keep the
// guest from powering off.
type console struct{ queue chan output }

// output is one thing for the console's writer to do.
type output struct {
	bytes []byte          // written as they are
	line  string          // a line of the agent, without its end
	raw   bool            // from here on the terminal adds no carriage returns
	open  bool            // open the console anew
	done  chan<- struct{} // if not nil, closed when all before it is written
}

// openConsole starts the console's writer, which lives as long as the guest.
func openConsole() *console {
	c := &console{queue: make(chan output, 256)}
	go c.write()
	c.reopen()
	return c
}

// reopen opens the console anew, in turn with what is written. The kernel may
// have another one, or one at last, after a module such as virtio_console.
func (c *console) reopen() { c.queue <- output{open: true} }

func (c *console) write() {
	var f *os.File
	end := "\n"
	fresh := true // the cursor is at the start of a line, as far as the agent knows
	for o := range c.queue {
		if o.open {
			if f != nil {
				f.Close()
			}
			f = consoleFile()
		}
		b := o.bytes
		if o.line != "" {
			l := strings.ReplaceAll(o.line, "\n", end) + end
			if !fresh { // not behind a prompt
				l = end + l
			}
			b = []byte(l)
		}
		if len(b) > 0 {
			fresh = b[len(b)-1] == '\n'
			if f != nil {
				_, _ = f.Write(b) // there is nowhere to report an error
			}
		}
		if o.raw {
			end = "\r\n"
		}
		if o.done != nil {
			close(o.done)
		}
	}
}

// consoleFile opens the console, or else the kernel's log, which is then the place
// to look.
func consoleFile() *os.File {
	for _, path := range []string{"/dev/console", "/dev/kmsg"} {
		if f, err := os.OpenFile(path, os.O_WRONLY|syscall.O_NOCTTY, 0); err == nil {
			return f
		}
	}
	return nil
}

// printf writes one line, or drops it if the console is far behind.
func (c *console) printf(format string, args ...any) {
	select {
	case c.queue <- output{line: fmt.Sprintf(format, args...)}:
	default:
	}
}

// Write writes bytes as they are, at the console's pace.
func (c *console) Write(p []byte) (int, error) {
	c.queue <- output{bytes: append([]byte(nil), p...)}
	return len(p), nil
}

// flush waits until what was printed is written, but not longer than limit.
func (c *console) flush(limit time.Duration) {
	done := make(chan struct{})
	timeout := time.After(limit)
	select {
	case c.queue <- output{done: done}:
	case <-timeout:
		return
	}
	select {
	case <-done:
	case <-timeout:
	}
}

// consoleTTY returns the terminal behind /dev/console, which itself can be no
// controlling terminal.
func consoleTTY() string {
	active, err := readTrimmed("/sys/class/tty/console/active")
	if err == nil {
		if names := strings.Fields(active); len(names) > 0 {
			// The last is the one behind /dev/console. tty0 stands for the current one.
			if name := names[len(names)-1]; name != "tty0" {
				return "/dev/" + name
			}
			return "/dev/tty1"
		}
	}
	return "/dev/console"
}

// newSession makes a child the leader of a session with its descriptor 0 as the
// controlling terminal.
func newSession() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0}
}
