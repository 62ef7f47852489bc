package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"vmfs/backends/hypervisor"
	"vmfs/backends/process"
	"vmfs/internal/wait"
)

// A network of passt's is a process beside QEMU's, one for each, joined to it by a
// pair of connected sockets, of which each has one and nobody else has any. So
// passt ends when QEMU does, however that ends, and it needs neither a path nor the
// server.

// programPasst is the program, which is looked for in PATH.
const programPasst = "passt"

// passtRules makes of forwards what passt takes for them.
func passtRules(rules []string) (args []string, err error) {
	for _, rule := range rules {
		f, err := hypervisor.ParseForward(rule)
		if err != nil {
			return nil, err
		}
		at := address(f.Addr)
		if at != "" {
			at += "/"
		}
		args = append(args, map[string]string{"tcp": "-t", "udp": "-u"}[f.Proto], fmt.Sprintf("%s%d:%d", at, f.HostPort, f.GuestPort))
	}
	return args, nil
}

// passt plans a network of passt's, and returns how QEMU is told of it.
func (p *plan) passt(i int, n hypervisor.NetworkConfig) (*option, error) {
	rules, err := passtRules(n.Forwards)
	if err != nil {
		return nil, err
	}
	if !atLeast(p.program.version, 7, 2) {
		return nil, fmt.Errorf("passt needs QEMU 7.2, and this is %s: use a user network instead: %w", p.program.version, hypervisor.ErrNotSupported)
	}
	path, err := p.host.find(programPasst)
	if err != nil {
		return nil, fmt.Errorf("passt is not installed (Debian: apt-get install passt): %w", err)
	}
	if p.passts == nil {
		p.passts = make(map[string][]string)
	}
	name := filePasst + strconv.Itoa(i)
	// It stays in the foreground, since its words would be lost otherwise, and says
	// on its standard output that it is ready. As root it becomes nobody by itself.
	// Of its words only warnings and errors are wanted among QEMU's.
	p.passts[name] = append([]string{path, "--quiet", "--foreground", "--fd", strconv.Itoa(process.FirstFile), "--pid", "/proc/self/fd/1"}, rules...)
	return opt("stream").set("id", "net"+strconv.Itoa(i)).on("server", false).
		set("addr.type", "fd").num("addr.str", int64(p.file(name))), nil
}

// portWait is how long a port may be taken by the passt of the VM's last run, which
// ends a moment after its QEMU, and nobody may have waited for it.
const portWait = time.Second

// startPasst starts a passt, and once more if it ends where a port may be about to
// become free.
func startPasst(ctx context.Context, command []string, log string) (end *os.File, c *process.Child, err error) {
	forwards := slices.Contains(command, "-t") || slices.Contains(command, "-u")
	for until := time.Now().Add(portWait); ; {
		end, c, err = tryPasst(ctx, command, log)
		if !forwards || !errors.Is(err, errPasstEnded) || time.Now().After(until) {
			return end, c, err
		}
		if ended := wait.For(ctx, portWait/10); ended != nil {
			return nil, nil, errors.Join(ended, err)
		}
	}
}

var errPasstEnded = errors.New("passt ended")

// tryPasst starts a passt and waits until it is ready: its ports are bound, and
// it has given up what it does not need. It returns the end of the connection that
// is QEMU's; passt ends when nobody has that.
func tryPasst(ctx context.Context, command []string, log string) (end *os.File, c *process.Child, err error) {
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
	words, err := passtWords(ctx, command[0])
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
		c, err = process.Start(ctx, process.Command{
			Path: command[0], Args: append(words, command[1:]...), Files: []*os.File{theirs}, Stdout: say, Log: log,
		})
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
	// It ends, or has closed its standard output, which is no passt then.
	_ = c.Await(ctx, exitWait)
	how := c.How()
	if kerr := c.Kill(); kerr != nil {
		return nil, nil, kerr
	}
	if how == "" {
		return nil, nil, fmt.Errorf("%s did not get ready: %w", command[0], errors.Join(ctx.Err(), err))
	}
	said := lastWords(c.Said())
	if said == "" {
		said = "it said nothing"
	}
	return nil, nil, fmt.Errorf("%w (%s, %s): %s", errPasstEnded, command[0], how, said)
}

// passtWords returns the option by which passt goes on to say on standard error
// what goes wrong: older ones need it, newer ones have it no more.
func passtWords(ctx context.Context, path string) ([]string, error) {
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

// lastWords is the last line of what passt said: those before it are not about its
// end. Where there is no system log it complains about that at every line.
func lastWords(said string) string {
	lines := strings.Split(said, "; ")
	for i := len(lines) - 1; i >= 0; i-- {
		if l := lines[i]; l != "" && !(strings.HasPrefix(l, "Failed to send ") && strings.HasSuffix(l, " to syslog")) {
			return l
		}
	}
	return ""
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
	return os.NewFile(uintptr(fds[0]), "passt's QEMU"), os.NewFile(uintptr(fds[1]), "passt"), nil
}
