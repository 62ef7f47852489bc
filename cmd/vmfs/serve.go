package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"vmfs/backends/hypervisor"
	"vmfs/fs"
	"vmfs/machine"
	"vmfs/ninep"
)

// shutdownTimeout is how long requests may take to end when the server does.
const shutdownTimeout = 10 * time.Second

// lingerTimeout is how long vsock streams that were closed may go on delivering
// when the server ends.
const lingerTimeout = 2 * time.Second

// serveOptions are the flags of serve.
type serveOptions struct {
	listen      []string
	state       string
	qemu        string
	createGroup string
	logLevel    string
	logFormat   string
}

func newServe() *cobra.Command {
	var o serveOptions
	cmd := &cobra.Command{
		Use:   "serve [--listen ADDR…] [--state DIR]",
		Short: "Serve the VMs of this host",
		Long: `Serve the VMs of this host over 9P until interrupted. VMs go on running without
the server, and the next one on the same state directory finds them again; only
VMs of the simulated hypervisor (config: hypervisor=sim) end with it.

Without --listen it is the Unix socket ` + "`vmfs/vmfs.sock`" + ` in /run for root, in
$XDG_RUNTIME_DIR for others, with mode 0600. Users of a Unix socket are who the
kernel says they are. On any other listener nobody is known: clients may read
what all may read, or, with ADDR,user=NAME, act for that user, all of them.
9P neither encrypts nor authenticates: serve TCP on loopback, or through a tunnel.

When all listeners are there, one line is printed: "listening" and the addresses,
with the port that was chosen where 0 was asked for. Under systemd with
Type=notify the service is ready at the same moment. The log goes to standard
error. The first SIGINT or SIGTERM ends the server in good order, a second one
at once.`,
		Example: `  vmfs serve
  vmfs serve --listen 'unix!/run/vmfs/vmfs.sock' --listen 'tcp!127.0.0.1!564,user=ann'
  vmfs serve --state /srv/vms --qemu /opt/qemu/bin/qemu-system-x86_64 --log-format json
  vmfs serve | { read -r listening; vmfs ls; }`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return serve(cmd, o) },
	}
	f := cmd.Flags()
	f.StringArrayVar(&o.listen, "listen", nil, "`address` to listen on: unix!PATH, tcp!HOST!PORT or vsock!CID!PORT, with ,user=NAME appended to name the user of all its clients; repeat for more")
	f.StringVar(&o.state, "state", "", "`directory` of all that is kept (default /var/lib/vmfs for root, else vmfs in $XDG_STATE_HOME or ~/.local/state)")
	f.StringVar(&o.qemu, "qemu", "", "QEMU's `program` (default the one in $PATH)")
	f.StringVar(&o.createGroup, "create-group", "", "`group` whose members may make VMs, besides root and the server's user")
	f.StringVar(&o.logLevel, "log-level", "info", "least `level` to log: debug, info, warn or error")
	f.StringVar(&o.logFormat, "log-format", "text", "log as text or json")
	cmd.MarkFlagDirname("state")
	cmd.RegisterFlagCompletionFunc("listen", cobra.NoFileCompletions)
	cmd.RegisterFlagCompletionFunc("log-level", cobra.FixedCompletions([]string{"debug", "info", "warn", "error"}, cobra.ShellCompDirectiveNoFileComp))
	cmd.RegisterFlagCompletionFunc("log-format", cobra.FixedCompletions([]string{"text", "json"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// serve is the server from its first check to its last log line.
func serve(cmd *cobra.Command, o serveOptions) (err error) {
	log, err := newLogger(cmd.ErrOrStderr(), o.logLevel, o.logFormat)
	if err != nil {
		return err
	}
	endpoints, err := parseListen(o.listen)
	if err != nil {
		return err
	}
	group, err := lookupGroup(o.createGroup)
	if err != nil {
		return err
	}
	paths := &hypervisor.Paths{}
	if o.qemu != "" {
		if _, err := os.Stat(o.qemu); err != nil {
			return fmt.Errorf("serve: --qemu: %w", err)
		}
		paths.Binaries = map[hypervisor.Type]string{hypervisor.TypeQEMU: o.qemu}
	}
	if o.state == "" {
		if o.state, err = defaultState(); err != nil {
			return err
		}
	}

	// Signals are taken from here on: none must fall between two steps.
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)

	registerBackends(log)

	// The state directory's lock comes first: a second server must not get as
	// far as a listener.
	host, err := machine.Open(cmd.Context(), machine.Options{StateDir: o.state, Log: log, Paths: paths})
	if err != nil {
		return fmt.Errorf("serve: %w", err)
	}
	defer func() { err = errors.Join(err, host.Close()) }()

	listeners, err := listenAll(cmd.Context(), endpoints, log)
	if err != nil {
		return fmt.Errorf("serve: %w", err)
	}
	tree := fs.New(host, fs.Options{Version: versionString(), CreateGroup: group, Log: log})
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), lingerTimeout)
		defer cancel()
		tree.Close(ctx)
	}()
	srv := &ninep.Server{
		Attacher: tree,
		Log:      log,
		Names:    new(accounts),
	}
	log.Info("serving", "version", versionString(), "state", o.state)
	return serveListeners(cmd.OutOrStdout(), srv, listeners, signals, log)
}

// serveListeners serves until a signal comes or a listener fails, and then ends
// all of it.
func serveListeners(out io.Writer, srv *ninep.Server, listeners []net.Listener, signals <-chan os.Signal, log *slog.Logger) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	failed := make(chan error, len(listeners))
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, ln := range listeners {
		wg.Go(func() {
			if err := srv.Serve(ctx, ln); err != nil {
				failed <- err
			}
		})
	}

	line := "listening"
	for _, ln := range listeners {
		line += " " + ninep.DialString(ln.Addr())
	}
	if _, err := fmt.Fprintln(out, line); err != nil {
		log.Warn("nobody was told that the server is listening", "error", err)
	}
	if err := sdNotify("READY=1"); err != nil {
		log.Warn("not told as ready", "error", err)
	}

	var failure error
	select {
	case sig := <-signals:
		log.Info("ending; VMs go on running, but for simulated ones; the same signal again ends at once", "signal", sig.String())
	case err := <-failed:
		failure = fmt.Errorf("serve: %w", err)
		log.Error("ending: a listener failed; VMs go on running", "error", err)
	}
	if err := sdNotify("STOPPING=1"); err != nil {
		log.Warn("not told as stopping", "error", err)
	}
	ending, force := context.WithTimeout(context.Background(), shutdownTimeout)
	defer force()
	go func() {
		select {
		case <-signals:
			force()
		case <-ending.Done():
		}
	}()
	err := srv.Shutdown(ending)
	if err != nil {
		cancel() // hangs up on who is left
		err = fmt.Errorf("serve: %w", err)
	} else {
		log.Info("ended")
	}
	return errors.Join(failure, err)
}

// An endpoint is one --listen.
type endpoint struct {
	addr ninep.Addr
	user string // for whom its clients act, if they are not known otherwise
	own  bool   // the default one, whose directory is ours to make
}

// parseListen reads the values of --listen.
func parseListen(values []string) ([]endpoint, error) {
	if len(values) == 0 {
		a, err := ninep.ParseAddr("unix!" + defaultSocket())
		if err != nil {
			return nil, fmt.Errorf("serve: the default listener: %w", err)
		}
		return []endpoint{{addr: a, own: true}}, nil
	}
	var all []endpoint
	for _, v := range values {
		s, name, named := strings.Cut(v, ",user=")
		a, err := ninep.ParseAddr(s)
		if err != nil {
			return nil, usagef("serve: --listen: %w", err)
		}
		if named {
			if _, err := strconv.ParseUint(name, 10, 32); err != nil {
				if _, err := user.Lookup(name); err != nil {
					return nil, usagef("serve: --listen %s: no user %q on this host", s, name)
				}
			}
		}
		all = append(all, endpoint{addr: a, user: name})
	}
	return all, nil
}

// listenAll listens on all endpoints, or on none.
func listenAll(ctx context.Context, endpoints []endpoint, log *slog.Logger) (listeners []net.Listener, err error) {
	defer func() {
		if err != nil {
			for _, ln := range listeners {
				ln.Close()
			}
		}
	}()
	for _, e := range endpoints {
		if e.own {
			if err := os.MkdirAll(filepath.Dir(e.addr.Host), 0o700); err != nil {
				return listeners, fmt.Errorf("directory of the default socket: %w: set $XDG_RUNTIME_DIR, or name a socket with --listen", err)
			}
		}
		ln, err := ninep.Listen(ctx, e.addr.String())
		if err != nil {
			return listeners, err
		}
		if e.user != "" {
			ln = ninep.WithUser(ln, e.user)
		}
		listeners = append(listeners, ln)
		warnOpen(log, ln, e)
	}
	return listeners, nil
}

// warnOpen says who can get in where the address keeps nobody out.
func warnOpen(log *slog.Logger, ln net.Listener, e endpoint) {
	does := "read all that is readable for everybody"
	if e.user != "" {
		does = "act as user " + e.user
	}
	switch a := ln.Addr().(type) {
	case *net.UnixAddr:
	case *net.TCPAddr:
		if a.IP.IsLoopback() {
			log.Info("every local user and program may "+does+" here", "listener", ninep.DialString(a))
			return
		}
		log.Warn("OPEN TO THE NETWORK: whoever reaches this address may "+does+", and whoever is on the way may read and change it all: "+
			"9P has no encryption and this listener no authentication; listen on tcp!127.0.0.1 and use a tunnel, or a firewall", "listener", ninep.DialString(a))
	default:
		log.Warn("OPEN TO GUESTS: whatever program reaches this address, from within a VM too, may "+does, "listener", ninep.DialString(a))
	}
}

// defaultState is the directory of all that is kept, unless told otherwise.
func defaultState() (string, error) {
	if os.Geteuid() == 0 {
		return "/var/lib/vmfs", nil
	}
	if x := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(x) {
		return filepath.Join(x, "vmfs"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("serve: no place for the state: %w: name one with --state", err)
	}
	return filepath.Join(home, ".local", "state", "vmfs"), nil
}

func newLogger(w io.Writer, level, format string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, usagef("serve: --log-level %q: it is debug, info, warn or error", level)
	}
	opt := &slog.HandlerOptions{Level: l}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, opt)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, opt)), nil
	}
	return nil, usagef("serve: --log-format %q: it is text or json", format)
}

func lookupGroup(name string) (*uint32, error) {
	if name == "" {
		return nil, nil
	}
	id := name
	if g, err := user.LookupGroup(name); err == nil {
		id = g.Gid
	}
	n, err := strconv.ParseUint(id, 10, 32)
	if err != nil {
		return nil, usagef("serve: --create-group: no group %q on this host", name)
	}
	gid := uint32(n)
	return &gid, nil
}
