package main

import (
	"context"
	"os"
	"strings"

	"github.com/stretchr/testify/require"

	"vmfs/client"
)

// An attached is a connection to a server within the test's process: what takes a
// client command a process takes it a message or two.
type attached struct{ *client.Client }

// attach connects to the server, which must be there.
func (s *server) attach() attached {
	s.t.Helper()
	c, err := attachTo(context.Background(), s.addr)
	require.NoError(s.t, err)
	return attached{c}
}

// send writes one message to a file.
func (a attached) send(name, text string) error {
	return a.WriteFile(context.Background(), name, []byte(strings.TrimSuffix(text, "\n")+"\n"))
}

// read returns what a file has, without its last newline.
func (a attached) read(name string) (string, error) {
	text, err := a.ReadFile(context.Background(), name)
	return strings.TrimSuffix(string(text), "\n"), err
}

// open opens a file to read it.
func (a attached) open(name string) (*client.File, error) {
	return a.Open(context.Background(), name, os.O_RDONLY)
}

// list returns a directory's entries.
func (a attached) list(name string) ([]client.Entry, error) {
	return a.ReadDir(context.Background(), name)
}

func (a attached) mkdir(name string) error { return a.Mkdir(context.Background(), name, 0o700) }
func (a attached) rmdir(name string) error { return a.Rmdir(context.Background(), name) }
