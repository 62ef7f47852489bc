package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hugelgupf/p9/linux"
	"github.com/hugelgupf/p9/p9"
	"github.com/spf13/cobra"

	"vmfs/ninep/dial"
)

const (
	// msize is the message size that the client proposes. Package p9 goes on with
	// it even where the server answers a smaller one, so it is one that every
	// server takes.
	msize = p9.DefaultMessageSize
	// ioSize is the most data of one read or write. It is well under msize: package
	// p9 splits larger ones, and then reads on until its whole buffer is full.
	ioSize = 60 << 10
	// connectTimeout bounds connecting and the first messages; a server that is
	// there answers at once.
	connectTimeout = 10 * time.Second
	// maxWalk is how many names one Twalk may have.
	maxWalk = 16
)

// Flags of Tlopen beside the modes, and of Tunlinkat, as 9P2000.L numbers them
// on every system.
const (
	openTruncate p9.OpenFlags = 0o1000
	openAppend   p9.OpenFlags = 0o2000
	atRemoveDir               = 0x200
)

// addrFlag adds --addr to a client command.
func addrFlag(cmd *cobra.Command) {
	cmd.Flags().String("addr", "", "`server` to talk to: unix!PATH, tcp!HOST!PORT or vsock!CID!PORT (default $VMFS_ADDR, else "+defaultSocket()+")")
	cmd.RegisterFlagCompletionFunc("addr", cobra.NoFileCompletions)
}

// serverAddr returns the address that cmd's flags and the environment name.
func serverAddr(cmd *cobra.Command) string {
	if a, _ := cmd.Flags().GetString("addr"); a != "" {
		return a
	}
	if a := os.Getenv("VMFS_ADDR"); a != "" {
		return a
	}
	return "unix!" + defaultSocket()
}

// defaultSocket is the Unix socket on which a server listens, and where clients
// look for it, unless told otherwise: a system's one for root, a user's own for
// anybody else.
func defaultSocket() string {
	dir := "/run"
	if x := os.Getenv("XDG_RUNTIME_DIR"); x != "" && os.Geteuid() != 0 {
		dir = x
	}
	return filepath.Join(dir, "vmfs", "vmfs.sock")
}

// A session is an attached connection to a server.
//
// Client commands leave SIGINT and SIGTERM to their default action: the process
// is gone at once, and the server cancels what it did for it when the
// connection drops.
type session struct {
	client *p9.Client
	root   p9.File
	ioSize int // the most data of one read or write
}

// connect attaches to the server that cmd names.
func connect(cmd *cobra.Command) (*session, error) {
	ctx, cancel := context.WithTimeout(cmd.Context(), connectTimeout)
	defer cancel()
	return attachTo(ctx, serverAddr(cmd))
}

// attachTo attaches to the server at addr. The end of ctx ends it.
func attachTo(ctx context.Context, addr string) (*session, error) {
	return attachSize(ctx, addr, msize)
}

// attachSize is attachTo with messages of another size, which the server must be known
// to take.
func attachSize(ctx context.Context, addr string, size uint32) (*session, error) {
	if _, err := dial.Parse(addr); err != nil {
		return nil, usagef("%w", err)
	}
	fail := func(err error) error {
		if ctx.Err() != nil {
			err = errors.New("no answer in time")
		}
		var errno linux.Errno
		if errors.As(err, &errno) { // it is a 9P server, and says no
			return fmt.Errorf("attach to %s: %w", addr, err)
		}
		hint := "is vmfs serve running there?"
		if errors.Is(err, os.ErrPermission) {
			hint = "it lets in its server's user and root, unless told to let in a group, see vmfs serve --help"
		}
		return fmt.Errorf("connect to %s: %w: %s (--addr or $VMFS_ADDR names another server)", addr, rootCause(err), hint)
	}
	conn, err := dial.Dial(ctx, addr)
	if err != nil {
		return nil, fail(err)
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Now()) })
	defer stop()
	client, err := p9.NewClient(conn, p9.WithMessageSize(size))
	if err != nil {
		conn.Close()
		return nil, fail(err)
	}
	root, err := client.Attach("")
	if err != nil {
		client.Close()
		return nil, fail(err)
	}
	if !stop() { // the time ran out between the last answer and here
		client.Close()
		return nil, fail(ctx.Err())
	}
	return &session{client: client, root: root, ioSize: int(size-msize) + ioSize}, nil
}

// rootCause strips an error of package net of the address, which the message has already.
func rootCause(err error) error {
	var sys *os.SyscallError
	if errors.As(err, &sys) {
		return sys.Err
	}
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}

func (s *session) close() { s.client.Close() }

// splitPath returns the names on the way to name from the root.
func splitPath(name string) []string {
	name = strings.Trim(path.Clean("/"+name), "/")
	if name == "" {
		return nil
	}
	return strings.Split(name, "/")
}

// walk returns a new fid for name.
func (s *session) walk(name string) (p9.File, error) {
	names := splitPath(name)
	f := s.root
	for first := true; first || len(names) > 0; first = false {
		part := names[:min(len(names), maxWalk)]
		names = names[len(part):]
		qids, next, err := f.Walk(part)
		if f != s.root {
			f.Close()
		}
		if err != nil {
			return nil, err
		}
		if len(qids) < len(part) { // a walk that got part of the way makes no fid
			return nil, linux.ENOENT
		}
		f = next
	}
	return f, nil
}

// open opens name.
func (s *session) open(name string, flags p9.OpenFlags) (*file, error) {
	f, err := s.walk(name)
	if err != nil {
		return nil, err
	}
	if _, _, err := f.Open(flags); err != nil {
		f.Close()
		return nil, s.explainOpen(name, err)
	}
	return &file{f: f, ioSize: s.ioSize}, nil
}

// readFile returns what name contains.
func (s *session) readFile(name string) (string, error) {
	f, err := s.open(name, p9.ReadOnly)
	if err != nil {
		return "", err
	}
	defer f.Close()
	data, err := io.ReadAll(f)
	return string(data), err
}

// readDir returns the entries of the directory name, sorted.
func (s *session) readDir(name string) (p9.Dirents, error) {
	f, err := s.walk(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if _, _, err := f.Open(p9.ReadOnly); err != nil {
		return nil, err
	}
	var all p9.Dirents
	for offset := uint64(0); ; {
		ents, err := f.Readdir(offset, ioSize)
		if err != nil {
			return nil, err
		}
		if len(ents) == 0 {
			break
		}
		offset = ents[len(ents)-1].Offset
		all = append(all, ents...)
	}
	all = slices.DeleteFunc(all, func(e p9.Dirent) bool { return e.Name == "." || e.Name == ".." })
	slices.SortFunc(all, func(a, b p9.Dirent) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

// A file is an open file read and written from the start on, each in its own
// direction. Its Read returns what the server sent, without waiting for more.
type file struct {
	f            p9.File
	ioSize       int // the session's
	rdOff, wrOff int64
	last         string // what the last Write wrote, if it failed
}

func (f *file) Read(p []byte) (int, error) {
	n, err := f.f.ReadAt(p[:min(len(p), f.ioSize)], f.rdOff)
	f.rdOff += int64(n)
	return n, err
}

// Write writes p in as many messages as it takes.
func (f *file) Write(p []byte) (int, error) {
	for done := 0; ; {
		n, err := f.f.WriteAt(p[done:min(len(p), done+f.ioSize)], f.wrOff)
		f.wrOff += int64(n)
		done += n
		switch {
		case err != nil:
			f.last = string(p)
			return done, err
		case done == len(p):
			return done, nil
		case n == 0:
			return done, io.ErrShortWrite
		}
	}
}

func (f *file) Close() error { return f.f.Close() }

// lost makes readable an error of the connection itself, and that of a request
// which the server gave up: this client gives up none.
func lost(err error) error {
	var errno linux.Errno
	if errors.As(err, &errno) && errno == linux.EINTR {
		return fmt.Errorf("%w: the server is ending, or somebody cancelled the command", err)
	}
	if err == nil || errors.As(err, &errno) {
		return err
	}
	return fmt.Errorf("connection to the server lost: %w", rootCause(err))
}

// rootNames are the files beside the VMs in a server's root.
var rootNames = []string{"ctl", "clone", "events", "version", "backends"}

// vmOf returns the VM to which name belongs, or "".
func vmOf(name string) string {
	names := splitPath(name)
	if len(names) == 0 || slices.Contains(rootNames, names[0]) {
		return ""
	}
	return names[0]
}

// explain returns the reason for err, the failure of a command on name that was
// written as sent. In this dialect an error is a number only; the text of it is
// in the VM's error file, but for what the VM was never told of: permission is
// refused before that, and a stream's errors are no commands'.
func (s *session) explain(name, sent string, err error) error {
	var errno linux.Errno
	vm := vmOf(name)
	if errors.Is(err, linux.EINVAL) && slices.Equal(splitPath(name), []string{"ctl"}) {
		return fmt.Errorf("%w: vmfs cat ctl shows what it takes, and the server's log has the reason", err)
	}
	if vm == "" || !takesCommands(name) || !errors.As(err, &errno) || errno == linux.EACCES {
		return lost(err)
	}
	text, rerr := s.readFile(vm + "/error")
	if text = strings.TrimSpace(text); rerr != nil || text == "" {
		return lost(err)
	}
	return &explained{text: reason(text, sent), errno: errno}
}

// takesCommands reports whether what fails on name, in a VM, is in the VM's error
// file: on others that has what failed before.
func takesCommands(name string) bool {
	switch names := splitPath(name); len(names) {
	case 1:
		return true
	case 2:
		return slices.Contains([]string{"ctl", "config", "memory", "console"}, names[1])
	}
	return false
}

// reason returns the error in text, the content of a VM's error file: a time, the
// command, a colon, and the error, which names the command itself. The command
// is known from what was sent; without a match it is left in.
func reason(text, sent string) string {
	if t, rest, ok := strings.Cut(text, " "); ok {
		if _, err := time.Parse(time.RFC3339, t); err == nil {
			text = rest
		}
	}
	commands := []string{"set", "console", "delete", "memory"}
	for line := range strings.Lines(sent) {
		line = strings.TrimSpace(line)
		verb, _, _ := strings.Cut(line, " ")
		commands = append(commands, line, verb, "memory "+line)
	}
	longest := ""
	for _, c := range commands {
		if len(c) > len(longest) && strings.HasPrefix(text, c+": ") {
			longest = c
		}
	}
	if longest != "" {
		text = text[len(longest)+len(": "):]
	}
	return text
}

// An explained error has the server's own words for its errno.
type explained struct {
	text  string
	errno linux.Errno
}

func (e *explained) Error() string { return e.text }
func (e *explained) Unwrap() error { return e.errno }
