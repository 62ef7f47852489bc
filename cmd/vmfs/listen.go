package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"

	"vmfs/internal/unixsock"
	"vmfs/ninep"
	"vmfs/ninep/dial"
)

// An endpoint is one --listen.
type endpoint struct {
	addr dial.Addr
	user string // for whom its clients act, if they are not known otherwise
	own  bool   // the default one, whose directory is ours to make

	// Who may connect to a Unix socket; 0600 and the server's group if not set.
	mode  os.FileMode
	group *uint32
}

// parseListen reads the values of --listen.
func parseListen(values []string) ([]endpoint, error) {
	if len(values) == 0 {
		a, err := dial.Parse("unix!" + defaultSocket())
		if err != nil {
			return nil, fmt.Errorf("serve: the default listener: %w", err)
		}
		return []endpoint{{addr: a, own: true}}, nil
	}
	var all []endpoint
	for _, v := range values {
		e, err := parseEndpoint(v)
		if err != nil {
			return nil, err
		}
		all = append(all, e)
	}
	return all, nil
}

// parseEndpoint reads ADDR[,user=NAME][,group=GROUP][,mode=MODE]. A comma that
// none of the words follows is part of a socket's path.
func parseEndpoint(v string) (e endpoint, err error) {
	s := v
	var words []string
	for {
		i := strings.LastIndexByte(s, ',')
		if i < 0 {
			break
		}
		if key, _, ok := strings.Cut(s[i+1:], "="); !ok || key != "user" && key != "group" && key != "mode" {
			break
		}
		words = append(words, s[i+1:])
		s = s[:i]
	}
	if e.addr, err = dial.Parse(s); err != nil {
		return e, usagef("serve: --listen: %w", err)
	}
	for _, w := range words {
		key, value, _ := strings.Cut(w, "=")
		if key != "user" && e.addr.Net != "unix" {
			return e, usagef("serve: --listen %s: %s= is for Unix sockets; here a firewall decides who may connect", s, key)
		}
		switch key {
		case "user":
			if _, err := strconv.ParseUint(value, 10, 32); err != nil {
				if _, err := user.Lookup(value); err != nil {
					return e, usagef("serve: --listen %s: no user %q on this host", s, value)
				}
			}
			e.user = value
		case "group":
			gid, ok := groupID(value)
			if !ok {
				return e, usagef("serve: --listen %s: no group %q on this host", s, value)
			}
			e.group = &gid
		case "mode":
			mode, err := strconv.ParseUint(value, 8, 32)
			if err != nil || mode > 0o777 {
				return e, usagef("serve: --listen %s: mode %q is not octal, as in 0660", s, value)
			}
			e.mode = os.FileMode(mode)
		}
	}
	if e.group != nil && e.mode == 0 {
		e.mode = 0o660
	}
	return e, nil
}

// groupID finds a group by name or number.
func groupID(name string) (uint32, bool) {
	if g, err := user.LookupGroup(name); err == nil {
		name = g.Gid
	}
	return id(name)
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
				return listeners, fmt.Errorf("directory of the default socket: %w: set $XDG_RUNTIME_DIR to a directory of yours, or name a socket with --listen", err)
			}
		}
		ln, err := dial.Listen(ctx, e.addr.String())
		if err != nil {
			return listeners, err
		}
		listeners = append(listeners, ln)
		if err := letIn(e, log); err != nil {
			return listeners, fmt.Errorf("listen on %s: %w", e.addr, err)
		}
		if e.user != "" {
			listeners[len(listeners)-1] = ninep.WithUser(ln, e.user)
		}
		warnOpen(log, ln, e)
	}
	return listeners, nil
}

// letIn gives a Unix socket, which only its owner can connect to so far, its
// group and mode.
func letIn(e endpoint, log *slog.Logger) error {
	if e.mode == 0 {
		return nil // without one there is no group either
	}
	if err := unixsock.Share(e.addr.Host, e.group, e.mode); err != nil {
		if e.group != nil && errors.Is(err, os.ErrPermission) {
			return fmt.Errorf("group %d: %w: the server's user is not a member of it", *e.group, err)
		}
		return err
	}
	dir := filepath.Dir(e.addr.Host)
	if fi, err := os.Stat(dir); err == nil && fi.Mode()&0o001 == 0 {
		log.Warn("the socket's mode lets others in, and its directory may not: chmod the directory if they cannot connect",
			"socket", e.addr.Host, "mode", e.mode, "directory", dir, "its mode", fi.Mode().Perm())
	}
	return nil
}

// warnOpen says who can get in where the address keeps nobody out.
func warnOpen(log *slog.Logger, ln net.Listener, e endpoint) {
	does := "read all that is readable for everybody"
	if e.user != "" {
		does = "act as user " + e.user
	}
	switch a := ln.Addr().(type) {
	case *net.UnixAddr:
		if e.user != "" && e.mode&0o066 != 0 {
			log.Warn("whoever may connect to this socket may "+does, "listener", dial.String(a), "mode", e.mode)
		}
	case *net.TCPAddr:
		if a.IP.IsLoopback() {
			log.Info("every local user and program may "+does+" here", "listener", dial.String(a))
			return
		}
		log.Warn("OPEN TO THE NETWORK: whoever reaches this address may "+does+", and whoever is on the way may read and change it all: "+
			"9P has no encryption and this listener no authentication; listen on tcp!127.0.0.1 and use a tunnel, or a firewall", "listener", dial.String(a))
	default:
		log.Warn("OPEN TO GUESTS: whatever program reaches this address, from within a VM too, may "+does, "listener", dial.String(a))
	}
}
