//go:build !linux

package machine

import (
	"errors"
	"os"
)

// A notifier tells of files that are written to. Only Linux has one here: readers
// of a console elsewhere are woken by the console's own connection, and look a
// few times a second besides.
type notifier struct{}

type watch struct{}

func newNotifier() (*notifier, error)           { return nil, errors.ErrUnsupported }
func (n *notifier) close()                      {}
func (n *notifier) watch(string, func()) *watch { return nil }
func (w *watch) stop()                          {}
func punchHole(_ *os.File, _, _ int64) error    { return errors.ErrUnsupported }
