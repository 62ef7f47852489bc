package main

import (
	"os/user"
	"strconv"

	"vmfs/ninep"
)

// accounts names users as this host does, for clients of the dialects that
// speak of users by name.
type accounts struct{}

var _ ninep.UserNames = accounts{}

// UserName implements ninep.UserNames.
func (accounts) UserName(uid uint32) (string, bool) {
	u, err := user.LookupId(strconv.FormatUint(uint64(uid), 10))
	if err != nil {
		return "", false
	}
	return u.Username, true
}

// GroupName implements ninep.UserNames.
func (accounts) GroupName(gid uint32) (string, bool) {
	g, err := user.LookupGroupId(strconv.FormatUint(uint64(gid), 10))
	if err != nil {
		return "", false
	}
	return g.Name, true
}

// UserID implements ninep.UserNames.
func (accounts) UserID(name string) (uint32, bool) {
	u, err := user.Lookup(name)
	if err != nil {
		return 0, false
	}
	return id(u.Uid)
}

// GroupID implements ninep.UserNames.
func (accounts) GroupID(name string) (uint32, bool) {
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
