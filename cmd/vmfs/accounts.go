package main

import (
	"os/user"
	"strconv"
	"sync"
	"time"

	"vmfs/ninep"
)

// accounts names users as this host does, for clients of the dialects that
// speak of users by name. What it knows of a number it believes for a while: a
// listing asks for every file.
type accounts struct {
	users, groups nameCache
}

var _ ninep.UserNames = (*accounts)(nil)

// UserName implements ninep.UserNames.
func (a *accounts) UserName(uid uint32) (string, bool) {
	return a.users.name(uid, func(id string) (string, error) {
		u, err := user.LookupId(id)
		if err != nil {
			return "", err
		}
		return u.Username, nil
	})
}

// GroupName implements ninep.UserNames.
func (a *accounts) GroupName(gid uint32) (string, bool) {
	return a.groups.name(gid, func(id string) (string, error) {
		g, err := user.LookupGroupId(id)
		if err != nil {
			return "", err
		}
		return g.Name, nil
	})
}

// UserID implements ninep.UserNames.
func (a *accounts) UserID(name string) (uint32, bool) {
	u, err := user.Lookup(name)
	if err != nil {
		return 0, false
	}
	return id(u.Uid)
}

// GroupID implements ninep.UserNames.
func (a *accounts) GroupID(name string) (uint32, bool) {
	g, err := user.LookupGroup(name)
	if err != nil {
		return 0, false
	}
	return id(g.Gid)
}

func id(s string) (uint32, bool) {
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), err == nil
}

const (
	nameCacheTime = 10 * time.Second
	nameCacheSize = 1024
)

// nameCache remembers the names of numbers. A number without a name has itself
// for one.
type nameCache struct {
	mu sync.Mutex // guards m
	m  map[uint32]cachedName
}

type cachedName struct {
	name string
	at   time.Time
}

func (c *nameCache) name(id uint32, lookup func(string) (string, error)) (string, bool) {
	c.mu.Lock()
	got, ok := c.m[id]
	c.mu.Unlock()
	if ok && time.Since(got.at) < nameCacheTime {
		return got.name, true
	}
	text := strconv.FormatUint(uint64(id), 10)
	name, err := lookup(text)
	if err != nil {
		name = text
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.m == nil || len(c.m) >= nameCacheSize {
		c.m = make(map[uint32]cachedName)
	}
	c.m[id] = cachedName{name, time.Now()}
	return name, true
}
