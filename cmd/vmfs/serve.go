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
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"vmfs/backends/hypervisor"
	"vmfs/fs"
	"vmfs/machine"
	"vmfs/ninep"
	"vmfs/ninep/dial"
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
	cloud       string
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
$XDG_RUNTIME_DIR for others, with mode 0600; on a Mac in /var/run and ~/Library.
Users of a Unix socket are who the kernel says they are; unix!PATH,group=GROUP lets the members of a group in, and
unix!PATH,mode=0666 everybody who reaches the socket's directory. On any other
listener nobody is known: clients may read what all may read, or, with
ADDR,user=NAME, act for that user, all of them.
9P neither encrypts nor authenticates: serve TCP on loopback, or through a tunnel.

When all listeners are there, one line is printed: "listening" and the addresses,
with the port that was chosen where 0 was asked for. Under systemd with
Type=notify the service is ready at the same moment. The log goes to standard
error. The first SIGINT or SIGTERM ends the server in good order, a second one
at once.`,
		Example: `  vmfs serve
  vmfs serve --listen 'unix!/run/vmfs/vmfs.sock,group=vms' --create-group vms
  vmfs serve --listen 'unix!/run/vmfs/vmfs.sock' --listen 'tcp!127.0.0.1!564,user=ann'
  vmfs serve --state /srv/vms --qemu /opt/qemu/bin/qemu-system-x86_64 --log-format json
  vmfs serve | { read -r listening; vmfs ls; }`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return serve(cmd, o) },
	}
	f := cmd.Flags()
	f.StringArrayVar(&o.listen, "listen", nil, "`address` to listen on: unix!PATH, tcp!HOST!PORT or vsock!CID!PORT, with ,user=NAME appended to name the user of all its clients, or ,group=GROUP or ,mode=MODE for a Unix socket; repeat for more")
	f.StringVar(&o.state, "state", "", "`directory` of all that is kept (default /var/lib/vmfs for root, else vmfs in $XDG_STATE_HOME or ~/.local/state; on a Mac /var/db/vmfs and ~/Library/vmfs)")
	f.StringVar(&o.qemu, "qemu", "", "QEMU's `program` (default the one in $PATH)")
	f.StringVar(&o.cloud, "cloud-hypervisor", "", "Cloud Hypervisor's `program` (default $VMFS_CLOUD_HYPERVISOR, else the one in $PATH)")
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
	paths := &hypervisor.Paths{Binaries: make(map[hypervisor.Type]string)}
	for _, p := range []struct {
		flag, path string
		of         hypervisor.Type
	}{{"qemu", o.qemu, hypervisor.TypeQEMU}, {"cloud-hypervisor", o.cloud, hypervisor.TypeCloudHypervisor}} {
		if p.path == "" {
			continue
		}
		if _, err := os.Stat(p.path); err != nil {
			return fmt.Errorf("serve: --%s: %w", p.flag, err)
		}
		paths.Binaries[p.of] = p.path
	}
	if o.state == "" {
		if o.state, err = defaultState(); err != nil {
			return err
		}
	}

	// The 9P server leaves one of Go's processors free, so that it sees at once who comes
	// while the others work: that is not to be at a core's expense.
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + 1)
	}

	// Signals are taken from here on: none must fall between two steps.
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)

	registerBackends(log)

	// The state directory's lock comes first: a second server must not get as
	// far as a listener.
	host, err := machine.Open(cmd.Context(), machine.Options{StateDir: o.state, Log: log, Paths: paths, Reserved: fs.RootNames()})
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
		line += " " + dial.String(ln.Addr())
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

func newLogger(w io.Writer, level, format string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, usagef("serve: --log-level %q: it is debug, info, warn or error", level)
	}
	opt := &slog.HandlerOptions{Level: l, ReplaceAttr: printableAttr}
	var h slog.Handler
	switch format {
	case "text":
		h = slog.NewTextHandler(w, opt)
	case "json":
		h = slog.NewJSONHandler(w, opt)
	default:
		return nil, usagef("serve: --log-format %q: it is text or json", format)
	}
	if l > slog.LevelDebug { // who debugs wants all
		h = limitWarnings(h)
	}
	return slog.New(h), nil
}

// lookupGroup finds the group of --create-group; nil is none.
func lookupGroup(name string) (*uint32, error) {
	if name == "" {
		return nil, nil
	}
	gid, ok := groupID(name)
	if !ok {
		return nil, usagef("serve: --create-group: no group %q on this host", name)
	}
	return &gid, nil
}
