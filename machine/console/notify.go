package console

import (
	"errors"
	"maps"
	"path/filepath"
	"slices"
	"sync"

	"github.com/fsnotify/fsnotify"
)

// A Notifier tells of files that are written to, by any process. There is one for
// all VMs: a user may have 128 of the kernel's. A nil one tells of nothing.
type Notifier struct {
	w    *fsnotify.Watcher
	done chan struct{} // closed when its goroutine has ended

	mu    sync.Mutex // guards files
	files map[string]map[*watch]struct{}
}

// A watch is one file that is waited for.
type watch struct {
	n      *Notifier
	path   string
	notice func()
}

// NewNotifier begins to take notices.
func NewNotifier() (*Notifier, error) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, err
	}
	n := &Notifier{w: w, done: make(chan struct{}), files: make(map[string]map[*watch]struct{})}
	go n.run()
	return n, nil
}

// Close ends the notices.
func (n *Notifier) Close() {
	if n != nil {
		n.w.Close()
		<-n.done
	}
}

// watch calls notice, from a goroutine of the notifier's, after every write to
// the file. It returns nil where that cannot be had.
func (n *Notifier) watch(path string, notice func()) *watch {
	if n == nil {
		return nil
	}
	// The kernel knows files, and not their names: one name for each.
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.w.Add(path); err != nil {
		return nil
	}
	w := &watch{n: n, path: path, notice: notice}
	if n.files[path] == nil {
		n.files[path] = make(map[*watch]struct{})
	}
	n.files[path][w] = struct{}{}
	return w
}

// stop ends the watch. A notice may be on its way still.
func (w *watch) stop() {
	n := w.n
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.files[w.path], w)
	if len(n.files[w.path]) == 0 {
		delete(n.files, w.path)
		_ = n.w.Remove(w.path) // fails where the file is gone
	}
}

// run passes on the notices of a file, and one for every file when some were lost.
func (n *Notifier) run() {
	defer close(n.done)
	for {
		select {
		case e, ok := <-n.w.Events:
			if !ok {
				return
			}
			n.tell(e.Name)
		case err, ok := <-n.w.Errors:
			if !ok {
				return
			}
			if errors.Is(err, fsnotify.ErrEventOverflow) {
				n.tell("")
			}
		}
	}
}

// tell gives the notices for the file, or for all files where name is "".
func (n *Notifier) tell(name string) {
	n.mu.Lock()
	sets := []map[*watch]struct{}{n.files[name]}
	if name == "" {
		sets = slices.Collect(maps.Values(n.files))
	}
	var notices []func()
	for _, set := range sets {
		for w := range set {
			notices = append(notices, w.notice)
		}
	}
	n.mu.Unlock()
	for _, notice := range notices {
		notice()
	}
}
