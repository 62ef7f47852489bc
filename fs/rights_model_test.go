package fs

import (
	"slices"
	"strings"

	"vmfs/machine"
)

// The model of rights: what docs/security.md and vmfs(4) say, written down a second time and
// apart from the tree, for TestRights and FuzzRights.

// A subject is a user who is not trusted.
type subject struct {
	name    string
	uid     uint32
	gids    []uint32
	creates bool // may make VMs
	nobody  bool // a client of a listener that names no user
}

// rights are what a subject may do with one VM.
type rights struct{ read, write, own bool }

func (s *subject) rights(o machine.Owner) rights {
	switch {
	case s.nobody:
		return rights{read: o.Mode&0o004 != 0}
	case s.uid == o.UID:
		return rights{o.Mode&0o400 != 0, o.Mode&0o200 != 0, true}
	case slices.Contains(s.gids, o.GID):
		return rights{o.Mode&0o040 != 0, o.Mode&0o020 != 0, false}
	}
	return rights{o.Mode&0o004 != 0, o.Mode&0o002 != 0, false}
}

// The kinds of files of a VM.
type fileKind int

const (
	noFile  fileKind = iota
	reading          // can be read, with r
	both             // can be written too, with w
	acting           // takes w to open at all
	folder
)

// kindOf says what kind of file of a VM has a path below it.
func kindOf(path []string) fileKind {
	switch p := strings.Join(path, "/"); {
	case p == "", p == "vsock", p == "vsock/listen", p == "snapshots":
		return folder
	case slices.Contains([]string{"ctl", "config", "memory", "console"}, p):
		return both
	case slices.Contains([]string{"state", "wait", "capabilities", "info", "error", "events", "log", "pid"}, p):
		return reading
	case path[0] == "snapshots" && len(path) == 2:
		return folder
	case path[0] == "snapshots" && len(path) == 3:
		return reading
	case path[0] != "vsock":
		return noFile
	case len(path) == 2 && strings.HasPrefix(path[1], "c") && path[1] != "clone":
		return folder
	case len(path) == 3 && path[2] == "status":
		return reading
	}
	return acting
}

// mayWalk says whether a path can be walked to. The names in the root are for all to see.
func (r rights) mayWalk(below []string) bool { return r.read || len(below) == 0 }

// mayOpen says whether a file of a VM can be opened to read, to write, or both; to truncate it
// is to write.
func (r rights) mayOpen(below []string, read, write bool) bool {
	if !r.mayWalk(below) || read && !r.read || write && !r.write {
		return false
	}
	switch kindOf(below) {
	case folder, reading:
		return !write
	case both:
		return true
	case acting:
		return r.write
	}
	return false
}

// mayOpenRoot is mayOpen of what is no VM's.
func (s *subject) mayOpenRoot(path []string, write bool) bool {
	switch p := strings.Join(path, "/"); {
	case p == "ctl":
		return !write || !s.nobody
	case p == "clone":
		return s.creates && !s.nobody
	}
	return !write
}
