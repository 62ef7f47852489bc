package main

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
)

// places are where a server keeps things, and where it and its clients meet, unless told
// otherwise.
type places struct {
	state  string // "" where there is no place
	socket string
}

// defaultPlaces are those of this process's user.
func defaultPlaces() places {
	home, _ := os.UserHomeDir() // without a home there is no place in it
	return placesOf(runtime.GOOS, os.Geteuid() == 0, home, os.Getenv)
}

// placesOf are the system's own for root, and the user's for anybody else. On a Mac a
// user's are below ~/Library, in paths that are short and without a space: the name of a
// socket has at most 103 bytes there, and those of VMs are below the state.
func placesOf(goos string, root bool, home string, env func(string) string) places {
	mac := goos == "darwin"
	own := func(fallback ...string) string {
		if !filepath.IsAbs(home) {
			return ""
		}
		return filepath.Join(append([]string{home}, fallback...)...)
	}
	var p places
	switch {
	case mac && root:
		p = places{state: "/var/db/vmfs", socket: "/var/run/vmfs/vmfs.sock"}
	case root:
		p = places{state: "/var/lib/vmfs", socket: "/run/vmfs/vmfs.sock"}
	case mac:
		p = places{state: own("Library", "vmfs"), socket: own("Library", "vmfs", "vmfs.sock")}
	default:
		p = places{state: own(".local", "state", "vmfs"), socket: "/run/vmfs/vmfs.sock"}
	}
	if x := env("XDG_STATE_HOME"); filepath.IsAbs(x) && !root {
		p.state = filepath.Join(x, "vmfs")
	}
	if x := env("XDG_RUNTIME_DIR"); x != "" && !root {
		p.socket = filepath.Join(x, "vmfs", "vmfs.sock")
	}
	return p
}

// defaultSocket is the Unix socket on which a server listens, and where clients look for
// it, unless told otherwise.
func defaultSocket() string { return defaultPlaces().socket }

// defaultState is the directory of all that is kept, unless told otherwise.
func defaultState() (string, error) {
	if p := defaultPlaces().state; p != "" {
		return p, nil
	}
	return "", errors.New("serve: no place for the state, as this user has no home: name one with --state")
}
