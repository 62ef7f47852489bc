package agent

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"sort"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const promptHelp = `echo WORDS   print the words
mem          this machine's memory
uname        the kernel
ps           the processes
dmesg [N]    the last N lines of the kernel's log (20)
poweroff     end the machine
reboot       start it anew
`

// prompt is the console of a guest without a shell. It returns at the end of input.
func (a *agent) prompt(in io.Reader) error {
	fmt.Fprint(a.con, "no /bin/sh in this guest; type help\n")
	lines := bufio.NewScanner(in)
	for {
		fmt.Fprint(a.con, "guest> ")
		if !lines.Scan() {
			return lines.Err()
		}
		words := strings.Fields(lines.Text())
		if len(words) == 0 {
			continue
		}
		if err := a.command(a.con, words); err != nil {
			fmt.Fprintf(a.con, "%s: %v\n", words[0], err)
		}
	}
}

func (a *agent) command(w io.Writer, words []string) error {
	switch words[0] {
	case "help":
		fmt.Fprint(w, promptHelp)
	case "echo":
		fmt.Fprintln(w, strings.Join(words[1:], " "))
	case "mem":
		fmt.Fprintf(w, "%d MiB\n", a.memory.now())
	case "uname":
		fmt.Fprintf(w, "Linux %s %s\n", kernelRelease(), runtime.GOARCH)
	case "ps":
		return listProcesses(w)
	case "dmesg":
		n := 20
		if len(words) > 1 {
			var err error
			if n, err = strconv.Atoi(words[1]); err != nil || n < 1 {
				return fmt.Errorf("%q is not a number of lines", words[1])
			}
		}
		return kernelLog(w, n)
	case "poweroff":
		a.end(powerOff)
	case "reboot":
		a.end(restart)
	default:
		return errors.New("unknown command: type help for a list")
	}
	return nil
}

func listProcesses(w io.Writer) error {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return err
	}
	var pids []int
	for _, d := range dirs {
		if pid, err := strconv.Atoi(filepath.Base(d)); err == nil {
			pids = append(pids, pid)
		}
	}
	sort.Ints(pids)
	for _, pid := range pids {
		comm, err := readTrimmed(fmt.Sprintf("/proc/%d/comm", pid))
		if err != nil {
			continue // ended meanwhile
		}
		args, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if len(args) > 0 {
			comm = strings.TrimSpace(strings.ReplaceAll(string(args), "\x00", " "))
		} else {
			comm = "[" + comm + "]"
		}
		fmt.Fprintf(w, "%5d %s\n", pid, comm)
	}
	return nil
}

func kernelLog(w io.Writer, n int) error {
	buf := make([]byte, 256<<10)
	got, err := unix.Klogctl(unix.SYSLOG_ACTION_READ_ALL, buf)
	if err != nil {
		return err
	}
	lines := strings.Split(strings.TrimSpace(string(buf[:got])), "\n")
	for _, l := range lines[max(0, len(lines)-n):] {
		fmt.Fprintln(w, l)
	}
	return nil
}
