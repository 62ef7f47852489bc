package hostnet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"vmfs/backends/hypervisor"
	"vmfs/backends/process"
	"vmfs/internal/wait"
)

// programPasst is looked for in PATH.
const programPasst = "passt"

// Address is the host's address of a forward as programs take it, "" for all.
func Address(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// passtArgs are passt's arguments, but for what depends on its version. It stays in
// the foreground, since its words would be lost otherwise, and says on its standard
// output that it is ready. As root it becomes nobody by itself. Of its words only
// warnings and errors are wanted among the VMM's.
func passtArgs(rules []string) ([]string, error) {
	args := []string{"--quiet", "--foreground", "--fd", strconv.Itoa(process.FirstFile), "--pid", "/proc/self/fd/1"}
	for _, rule := range rules {
		f, err := hypervisor.ParseForward(rule)
		if err != nil {
			return nil, err
		}
		at := Address(f.Addr)
		if at != "" {
			at += "/"
		}
		args = append(args, map[string]string{"tcp": "-t", "udp": "-u"}[f.Proto], fmt.Sprintf("%s%d:%d", at, f.HostPort, f.GuestPort))
	}
	return args, nil
}

// portWait is how long a port may be taken by the passt of the VM's last run, which
// ends a moment after its VMM, and nobody may have waited for it.
const portWait = time.Second

// Passt starts a passt with the forwards, whose words go to the file log, and waits
// until it is ready: its ports are bound, and it has given up what it does not need.
// It returns the VMM's end of the stream socket that joins the two, of which each
// has one and nobody else has any: so passt ends when the VMM does, however that
// ends, and needs neither a path nor the server.
func Passt(ctx context.Context, forwards []string, log string) (end *os.File, c *process.Child, err error) {
	args, err := passtArgs(forwards)
	if err != nil {
		return nil, nil, err
	}
	path, err := exec.LookPath(programPasst)
	if err != nil {
		return nil, nil, fmt.Errorf("passt is not installed (Debian: apt-get install passt): %w", err)
	}
	for until := time.Now().Add(portWait); ; {
		end, c, err = tryPasst(ctx, path, args, log)
		// It may have ended for a port that is about to become free.
		if len(forwards) == 0 || !errors.Is(err, errPasstEnded) || time.Now().After(until) {
			return end, c, err
		}
		if ended := wait.For(ctx, portWait/10); ended != nil {
			return nil, nil, errors.Join(ended, err)
		}
	}
}

var errPasstEnded = errors.New("passt ended")

func tryPasst(ctx context.Context, path string, args []string, log string) (end *os.File, c *process.Child, err error) {
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, nil, err
	}
	defer theirs.Close()
	defer func() {
		if err != nil {
			_ = ours.Close() // the end of the one that failed
		}
	}()
	option, err := stderrOption(ctx, path)
	if err != nil {
		return nil, nil, err
	}
	ready, say, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	defer ready.Close()
	// passt opens it by its path when it is nobody already.
	err = say.Chmod(0o622)
	if err == nil {
		c, err = process.Start(ctx, process.Command{Path: path, Args: append(option, args...), Files: []*os.File{theirs}, Stdout: say, Log: log})
	}
	_ = say.Close() // passt has its own
	if err != nil {
		return nil, nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = ready.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var buf [32]byte
	n, err := ready.Read(buf[:])
	if n > 0 {
		return ours, c, nil
	}
	if !errors.Is(err, io.EOF) { // the context's end; nothing else ends the reading of a pipe
		return nil, nil, errors.Join(ctx.Err(), c.Kill())
	}
	// It ends, or has closed its standard output, which no passt does.
	_ = c.Await(ctx, endWait)
	how := c.How()
	if kerr := c.Kill(); kerr != nil {
		return nil, nil, kerr
	}
	if how == "" {
		return nil, nil, fmt.Errorf("%s did not get ready: %w", path, errors.Join(ctx.Err(), err))
	}
	said := lastWords(c.Said())
	if said == "" {
		said = "it said nothing"
	}
	return nil, nil, fmt.Errorf("%w (%s, %s): %s", errPasstEnded, path, how, said)
}

// endWait bounds the wait for the end of a process that has closed its output.
const endWait = 2 * time.Second

// stderrOption is the option by which passt goes on to say on standard error what
// goes wrong: older ones need it, newer ones have it no more.
func stderrOption(ctx context.Context, path string) ([]string, error) {
	const option = "--stderr"
	help, _ := process.Output(ctx, path, "--help") // some call it a failure
	if ctx.Err() != nil {
		return nil, fmt.Errorf("%s --help: %w", path, ctx.Err())
	}
	if strings.Contains(help, option) {
		return []string{option}, nil
	}
	return nil, nil
}

// lastWords is the end of what passt said: the last line is what it gave up for, and of
// newer ones the line before is why. Those before are not about its end. Where there
// is no system log it complains about that at every line.
func lastWords(said string) string {
	lines := slices.DeleteFunc(strings.Split(said, "; "), func(l string) bool {
		return l == "" || strings.HasPrefix(l, "Failed to send ") && strings.HasSuffix(l, " to syslog")
	})
	return strings.Join(lines[max(0, len(lines)-2):], "; ")
}

// socketPair makes two connected sockets that no other process inherits.
func socketPair() (a, b *os.File, err error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socket pair: %w", os.NewSyscallError("socketpair", err))
	}
	for _, fd := range fds {
		syscall.CloseOnExec(fd)
	}
	return os.NewFile(uintptr(fds[0]), "passt's VMM"), os.NewFile(uintptr(fds[1]), "passt"), nil
}
