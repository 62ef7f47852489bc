// Package serial is the process beside a VMM that holds what its VM says: the output of
// the serial console, which it appends to a file and carries to and from whoever is
// connected to the console, and the words of the VMM itself, which it appends to the log.
//
// The process outlives the server as the VM does, and ends by itself with the VMM. Its
// handle keeps it (package companion), and starts another where it has died. So
// nothing that a guest says depends on a server, and no reader of the console can make
// the guest wait (docs/decisions/011).
//
// The process is this very program, started again: an init function of this package
// takes over there, so that every program that links the package can start it, tests
// included.
//
// What serves the console to its clients, and the log of bounded size, are there for a VMM
// that is vmfs's own, too, on any system: see Console and OpenSerialLog.
//
// The package imports the standard library, golang.org/x/sys, backends/companion,
// backends/hypervisor, backends/process, backends/rundir, and durable, flock, unixsock and wait of
// internal.
package serial

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"time"

	"vmfs/backends/companion"
	"vmfs/backends/hypervisor"
	"vmfs/backends/process"
	"vmfs/backends/rundir"
	"vmfs/internal/flock"
	"vmfs/internal/unixsock"
)

// Supported is whether the process runs on this system.
const Supported = runtime.GOOS == "linux"

// name is the first argument of the process.
const name = "vmfs-serial"

func init() { process.Main(name, command) }

// A Config is what the process of one VM needs to know.
type Config struct {
	// VMM is the socket at which the VMM has the VM's serial port. It need not be there
	// yet, and may go and come again: the process connects whenever it can.
	VMM string
	// Stuck says of a VMM that keeps what did not fit into the connection until the
	// guest says more or somebody connects anew. QEMU does not, Cloud Hypervisor does.
	Stuck bool
	// Console is the socket at which the process serves the console: see Open.
	Console string
	// Output is the FIFO that the VMM's standard output and error go into: see
	// MakeOutput. That it has no writer any more is how the process knows that
	// the VMM has ended.
	Output string
	// SerialLog is the file that all output of the serial port is appended to, "" is
	// none. Where it has grown beyond SerialLogMax bytes of its disk it is cut at its head
	// to half of that, without moving what is left (see durable.CutHead); 0 is no bound.
	SerialLog    string
	SerialLogMax int64
	// Log is the file that the VMM's words are appended to, and those of the process.
	// Beyond LogMax bytes its last quarter of that is kept; 0 is no bound.
	Log    string
	LogMax int64
}

// LogMax is the bound of a VMM's log.
const LogMax = 1 << 20

// What the process and the VMM make in the VM's run-time directory, beside the logs, by file name.
const (
	vmmSocket     = "serial.sock"
	consoleSocket = "console.sock"
	outputFIFO    = "output"
)

// Sockets are the sockets that the two make.
func Sockets() []string { return []string{vmmSocket, consoleSocket} }

// Files are what else they may leave when they are killed.
func Files() []string { return []string{lockPath(consoleSocket), outputFIFO} }

// In returns what the process beside the VMM of a run-time directory needs to know, in
// which its sockets and the FIFO are, and the VMM's socket is to be.
func In(dir rundir.Dir, c *hypervisor.VMConfig) Config {
	return Config{
		VMM: dir.Path(vmmSocket), Console: ConsolePath(dir), Output: dir.Path(outputFIFO),
		SerialLog: c.SerialLogPath, SerialLogMax: c.SerialLogMax, Log: cmp.Or(c.LogPath, dir.Log()), LogMax: LogMax,
	}
}

// ConsolePath is where the process serves the console of the VM of a run-time directory.
func ConsolePath(dir rundir.Dir) string { return dir.Path(consoleSocket) }

// lockPath is the file whose lock the process has that serves a console.
func lockPath(console string) string { return console + ".lock" }

// lockPatience bounds the wait for a predecessor that is dying.
const lockPatience = 2 * time.Second

func (c Config) spec() companion.Spec {
	args := []string{"--vmm", c.VMM, "--console", c.Console, "--output", c.Output, "--log", c.Log}
	for _, o := range []struct {
		flag, value string
		given       bool
	}{
		{"--stuck", "", c.Stuck},
		{"--serial-log", c.SerialLog, c.SerialLog != ""},
		{"--serial-log-max", strconv.FormatInt(c.SerialLogMax, 10), c.SerialLogMax != 0},
		{"--log-max", strconv.FormatInt(c.LogMax, 10), c.LogMax != 0},
	} {
		if o.given {
			args = append(args, o.flag)
			if o.value != "" {
				args = append(args, o.value)
			}
		}
	}
	return companion.Spec{
		Name: name, Args: args, Log: c.Log,
		Holder: func(ctx context.Context) (int, error) {
			ctx, cancel := context.WithTimeout(ctx, lockPatience)
			defer cancel()
			return flock.Holder(ctx, lockPath(c.Console))
		},
		Served: func(context.Context) (bool, error) { return unixsock.Served(c.Console) },
	}
}

// Start starts the process. It does not wait until that has connected to the VMM.
func Start(ctx context.Context, c Config) (*companion.Companion, error) { return start(ctx, c, nil) }

// start is Start, with files that the process holds open.
func start(ctx context.Context, c Config, held []*os.File) (*companion.Companion, error) {
	if !Supported {
		return nil, fmt.Errorf("serial console: its process runs on Linux, this is %s: %w", runtime.GOOS, hypervisor.ErrNotSupported)
	}
	// What is wrong with the file is the start's error, and not a word in a log.
	if c.SerialLog != "" {
		f, err := openLog(c.SerialLog)
		if err != nil {
			return nil, fmt.Errorf("serial log: %w", err)
		}
		if err := f.Close(); err != nil {
			return nil, fmt.Errorf("serial log: %w", err)
		}
	}
	spec := c.spec()
	spec.Files = held
	p, err := spec.Start(ctx)
	if err != nil {
		return nil, fmt.Errorf("serial console: %w", err)
	}
	return p, nil
}

// FindOrStart returns the process that runs already, or starts one.
func FindOrStart(ctx context.Context, c Config) (*companion.Companion, error) {
	if !Supported {
		return Start(ctx, c)
	}
	p, err := c.spec().FindOrStart(ctx)
	if err != nil {
		return nil, fmt.Errorf("serial console: %w", err)
	}
	return p, nil
}

// End ends the process that serves a console, whether or not it can be reached there,
// and waits for it. Where there is none it returns nil.
func End(ctx context.Context, console string) error {
	if !Supported {
		return nil
	}
	if err := (Config{Console: console}).spec().End(ctx); err != nil {
		return fmt.Errorf("serial console: %w", err)
	}
	return nil
}

// openLog opens a file to append to. One that is no regular file is not waited for.
func openLog(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|nonblock, 0o600)
}
