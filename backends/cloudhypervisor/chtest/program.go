package chtest

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"vmfs/internal/unixsock"
)

// programName is the name of the program, and settingsName that of the file beside it with its
// Config.
const (
	programName  = "cloud-hypervisor"
	settingsName = "chtest.json"
)

// A program that Program has made is this test binary by another name. It becomes the VMM before
// its tests begin.
func init() {
	if filepath.Base(os.Args[0]) != programName {
		return
	}
	b, err := os.ReadFile(filepath.Join(filepath.Dir(os.Args[0]), settingsName))
	if err != nil {
		return // it is not one of ours
	}
	if err := run(os.Args[1:], b); err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		os.Exit(1)
	}
	syscall.Exit(0) // at once: the race detector would wait for a second
}

// Program makes a program that is a VMM as c says, in a directory of its own, and returns its
// path. Its VMMs are processes of this test binary.
func Program(t testing.TB, c Config) string {
	t.Helper()
	dir := t.TempDir()
	self, err := os.Executable()
	require.NoError(t, err)
	b, err := json.Marshal(c)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, settingsName), b, 0o600))
	path := filepath.Join(dir, programName)
	require.NoError(t, os.Symlink(self, path))
	return path
}

// Start runs a VMM as c says within the test, on the socket, with events in the file of that
// name unless it is "". It ends with the test.
func Start(t testing.TB, c Config, socket, events string) {
	t.Helper()
	var file *os.File
	var err error
	if events != "" {
		file, err = os.Create(events)
		require.NoError(t, err)
	}
	s := newServer(c, file)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	require.NoError(t, err)
	l.SetUnlinkOnClose(false) // as of a process that is killed
	s.lost = func() { _ = os.Remove(socket) }
	s.kill = func() { go s.end() }
	served := make(chan struct{})
	go func() {
		s.serve(l)
		close(served)
	}()
	t.Cleanup(func() {
		s.end()
		<-served
		if file != nil {
			_ = file.Close() // nobody looks at whether writing succeeds
		}
	})
}

// run is the program.
func run(args []string, settings []byte) error {
	var c Config
	if err := json.Unmarshal(settings, &c); err != nil {
		return err
	}
	if c.Version == "" {
		c.Version = "v53.0"
	}
	fs := flag.NewFlagSet(programName, flag.ContinueOnError)
	version := fs.Bool("version", false, "")
	socketArg := fs.String("api-socket", "", "")
	eventsArg := fs.String("event-monitor", "", "")
	noShutdown := fs.Bool("no-shutdown", false, "")
	fs.String("seccomp", "true", "")
	fs.String("log-format", "", "")
	fs.String("log-file", "", "")
	fs.Bool("v", false, "")
	if err := fs.Parse(args); err != nil {
		return err
	}
	switch {
	case *version:
		_, err := fmt.Printf("%s %s\nMigration Protocol Versions: 0\n", programName, c.Version)
		return err
	case !*noShutdown:
		return errors.New("the fake ends with its guest in no other way than --no-shutdown")
	}
	events, err := open(*eventsArg, func(path string) (*os.File, error) { return os.Create(path) })
	if err != nil {
		return fmt.Errorf("event monitor: %w", err)
	}
	socket, err := open(*socketArg, func(path string) (*os.File, error) {
		return unixsock.Bind(context.Background(), path)
	})
	if err != nil {
		return fmt.Errorf("API socket: %w", err)
	}
	if socket == nil {
		return errors.New("no API socket")
	}
	nl, err := net.FileListener(socket)
	if err != nil {
		return err
	}
	l, ok := nl.(*net.UnixListener)
	if !ok {
		return errors.New("the API socket is no Unix socket")
	}
	_ = socket.Close() // the listener has a descriptor of its own
	path := l.Addr().String()
	s := newServer(c, events)
	s.lost = func() { _ = os.Remove(path) }
	s.kill = func() {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
	s.serve(l)
	if strings.HasPrefix(*socketArg, "path=") {
		_ = os.Remove(path) // as the real one
	}
	return nil
}

// open opens what "path=FILE" or "fd=N" says; "" is nothing.
func open(arg string, make func(path string) (*os.File, error)) (*os.File, error) {
	key, value, ok := strings.Cut(arg, "=")
	switch {
	case arg == "":
		return nil, nil
	case !ok:
		return make(arg)
	case key == "path":
		return make(value)
	case key == "fd":
		fd, err := strconv.Atoi(value)
		if err != nil {
			return nil, err
		}
		return os.NewFile(uintptr(fd), arg), nil
	}
	return nil, fmt.Errorf("%q is neither path=FILE nor fd=N", arg)
}
