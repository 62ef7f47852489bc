package shim

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"

	"vmfs/backends/vz/shimconfig"
)

// Name is the subcommand of vmfs that is the shim.
const Name = "vz-shim"

// The descriptors that a shim inherits.
const (
	ControlFD = 3 // listens at the control socket
	ConfigFD  = 4 // is read to its end for the configuration
	FirstNet  = 5 // the first socket of a network of kind NetFile
)

// The command line of a shim. The control socket's path is there for people who look at
// processes; the configuration never is.
const (
	FlagHost   = "host"   // prints a shimconfig.Host and ends
	FlagCheck  = "check"  // reads a configuration from standard input, prints a shimconfig.Support and ends
	FlagSocket = "socket" // the control socket's path
)

// Main is the shim's process, of which args are the arguments behind its name. It returns
// the exit status. What it has to say goes to standard error.
func Main(args []string, engine Engine) int {
	flags := flag.NewFlagSet(Name, flag.ContinueOnError)
	host := flags.Bool(FlagHost, false, "print what this host's framework can do")
	check := flags.Bool(FlagCheck, false, "check the configuration on standard input")
	flags.String(FlagSocket, "", "`path` of the control socket, for people")
	if flags.Parse(args) != nil {
		return 2 // it has said why
	}
	var err error
	switch {
	case *host:
		var h shimconfig.Host
		if h, err = engine.Host(); err == nil {
			err = json.NewEncoder(os.Stdout).Encode(h)
		}
	case *check:
		err = checkConfig(os.Stdin, os.Stdout, engine)
	default:
		err = inherited(engine)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, Name+":", err)
		return 1
	}
	return 0
}

func checkConfig(r io.Reader, w io.Writer, engine Engine) error {
	c, err := shimconfig.Read(r)
	if err != nil {
		return err
	}
	s, err := engine.Check(c)
	if err != nil {
		return err
	}
	return json.NewEncoder(w).Encode(s)
}

// inherited runs a shim with what it has inherited.
func inherited(engine Engine) error {
	control := os.NewFile(ControlFD, "control socket")
	file := os.NewFile(ConfigFD, "configuration")
	if control == nil || file == nil {
		return errors.New("it is started by vmfs alone, which gives it its configuration")
	}
	c, err := shimconfig.Read(file)
	if err != nil {
		return err
	}
	_ = file.Close() // it was read
	l, err := net.FileListener(control)
	if err != nil {
		return fmt.Errorf("control socket: %w", err)
	}
	_ = control.Close() // the listener has its own
	ul, ok := l.(*net.UnixListener)
	if !ok {
		return fmt.Errorf("control socket: it is a %T", l)
	}
	ul.SetUnlinkOnClose(false)
	if err := relisten(ul); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	signal.Ignore(syscall.SIGPIPE, syscall.SIGHUP)
	log := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("process", Name, "pid", os.Getpid())
	return Run(ctx, Config{Engine: engine, VM: c, Control: ul, Log: log})
}

// relisten makes this process the one that a client is told listens there.
func relisten(l *net.UnixListener) error {
	rc, err := l.SyscallConn()
	if err != nil {
		return err
	}
	var lerr error
	if err := rc.Control(func(fd uintptr) { lerr = syscall.Listen(int(fd), syscall.SOMAXCONN) }); err != nil {
		return err
	}
	return os.NewSyscallError("listen", lerr)
}
