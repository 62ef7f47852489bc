package main

import (
	"context"
	"path"
	"strings"

	"github.com/hugelgupf/p9/p9"
	"github.com/stretchr/testify/require"
)

// An attached is a connection to a server within the test's process: what takes a
// client command a process takes it a message or two.
type attached struct{ *session }

// attach connects to the server, which must be there.
func (s *server) attach() attached {
	s.t.Helper()
	sess, err := attachTo(context.Background(), s.addr)
	require.NoError(s.t, err)
	return attached{sess}
}

// send writes one message to a file.
func (a attached) send(name, text string) error {
	return a.write(name, p9.WriteOnly|openTruncate, []string{strings.TrimSuffix(text, "\n")}, nil)
}

// read returns what a file has, without its last newline.
func (a attached) read(name string) (string, error) {
	text, err := a.readFile(name)
	return strings.TrimSuffix(text, "\n"), err
}

func (a attached) mkdir(name string) error {
	return a.within(name, func(dir p9.File, base string) error {
		_, err := dir.Mkdir(base, 0o700, p9.NoUID, p9.NoGID)
		return err
	})
}

func (a attached) rmdir(name string) error {
	return a.within(name, func(dir p9.File, base string) error {
		if err := dir.UnlinkAt(base, atRemoveDir); err != nil {
			return a.explain(name, "", err)
		}
		return nil
	})
}

// within calls f with the directory and the last part of a name.
func (a attached) within(name string, f func(dir p9.File, base string) error) error {
	dir, err := a.walk(path.Dir("/" + name))
	if err != nil {
		return err
	}
	defer dir.Close()
	return f(dir, path.Base(name))
}
