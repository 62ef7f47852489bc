package fs

import (
	"context"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/hugelgupf/p9/linux"
	"github.com/hugelgupf/p9/p9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/hypervisor"
	"vmfs/ctl"
	"vmfs/machine"
)

// conn is a connection's other end as a server would tell of it.
type conn struct {
	fixed  string
	uid    uint32
	groups []uint32
	known  bool
}

func (c conn) Network() string           { return "test" }
func (c conn) Listener() string          { return "test" }
func (c conn) Remote() string            { return "" }
func (c conn) FixedUser() (string, bool) { return c.fixed, c.fixed != "" }
func (c conn) PeerCred() (uid, gid uint32, groups []uint32, pid int, ok bool) {
	if len(c.groups) > 0 {
		gid = c.groups[0]
	}
	return c.uid, gid, c.groups, 1, c.known
}

// peer is a process of the user on a Unix socket.
func peer(uid uint32, groups ...uint32) conn { return conn{uid: uid, groups: groups, known: true} }

func attach(t *testing.T, tree *Tree, c conn, uname string, nuname uint32) *dir {
	t.Helper()
	f, err := tree.AttachUser(context.Background(), c, uname, nuname, "")
	require.NoError(t, err)
	return f.(*dir)
}

func TestIdentify(t *testing.T) {
	tree := New(newHost(t), Options{})
	self := ownUID()
	for name, c := range map[string]struct {
		conn   conn
		uname  string
		nuname uint32
		uid    uint32
		all    bool
		ro     bool
	}{
		"the peer":                           {peer(1234, 1234), "", noUser, 1234, false, false},
		"a peer who claims to be root":       {peer(1234, 1234), "root", noUser, 1234, false, false},
		"a peer who claims to be root by id": {peer(1234, 1234), "", 0, 1234, false, false},
		"root":                               {peer(0, 0), "", noUser, 0, true, false},
		"root for another by id":             {peer(0, 0), "", 4321, 4321, false, false},
		"root for another by name":           {peer(0, 0), "4321", noUser, 4321, false, false},
		"the id goes before the name":        {peer(0, 0), "root", 4321, 4321, false, false},
		"the server's user":                  {peer(self, 0), "", noUser, self, true, false},
		"a listener's fixed user":            {conn{fixed: "77"}, "root", 0, 77, false, false},
		"nobody":                             {conn{}, "root", 0, nobody, false, true},
	} {
		w, err := tree.identify(c.conn, c.uname, c.nuname)
		require.NoError(t, err, name)
		assert.Equal(t, c.uid, w.uid, name)
		assert.Equal(t, c.all, w.all, name)
		assert.Equal(t, c.ro, w.readonly, name)
	}
	_, err := tree.AttachUser(context.Background(), peer(0, 0), "no such user here", noUser, "")
	assert.Equal(t, linux.EACCES, linux.ExtractErrno(errnoOf(err)))
}

// TestAttachName holds that a client can attach to a part of the tree, as far as
// it may walk there.
func TestAttachName(t *testing.T) {
	host := newHost(t)
	tree := New(host, Options{})
	_, err := host.Create("web", machine.Owner{UID: 1001, GID: 2001, Mode: 0o700})
	require.NoError(t, err)
	for _, c := range []struct {
		aname string
		conn  conn
		path  uint64 // of the qid, by its file in the tree; 0 is the root
		err   error
	}{
		{"/", peer(1003, 1003), 0, nil},
		{"web", peer(1001, 1001), 1, nil},
		{"/web/", peer(1001, 1001), 1, nil},
		{"web/state", peer(1001, 1001), 2, nil},
		{"web/state", peer(1003, 1003), 0, linux.EACCES},
		{"web/state/x", peer(1001, 1001), 0, linux.ENOTDIR},
		{"nothing", peer(1001, 1001), 0, linux.ENOENT},
	} {
		f, err := tree.AttachUser(context.Background(), c.conn, "", noUser, c.aname)
		if c.err != nil {
			assert.ErrorIs(t, err, c.err, c.aname)
			continue
		}
		require.NoError(t, err, c.aname)
		qid, _, _, err := f.GetAttr(p9.AttrMaskAll)
		require.NoError(t, err)
		want := tree.root(&who{all: true}).qid().Path
		for _, names := range [][]string{{"web"}, {"web", "state"}}[:c.path] {
			qids, _, err := tree.root(&who{all: true}).Walk(names)
			require.NoError(t, err)
			want = qids[len(qids)-1].Path
		}
		assert.Equal(t, want, qid.Path, c.aname)
	}
}

// TestPermissions walks every class of user over every file of a VM.
func TestPermissions(t *testing.T) {
	host := newHost(t)
	tree := New(host, Options{})
	vm, err := host.Create("web", machine.Owner{UID: 1001, GID: 2001, Mode: 0o640})
	require.NoError(t, err)
	type rights struct{ read, write, own bool }
	for name, c := range map[string]struct {
		conn conn
		want rights
	}{
		"root":             {peer(0, 0), rights{true, true, true}},
		"owner":            {peer(1001, 1001), rights{true, true, true}},
		"group":            {peer(1002, 1002, 2001), rights{true, false, false}},
		"others":           {peer(1003, 1003), rights{false, false, false}},
		"owner of a group": {peer(1003, 2001), rights{true, false, false}},
		"nobody, by TCP":   {conn{}, rights{false, false, false}},
		"owner, by TCP":    {conn{fixed: "1001"}, rights{true, true, true}},
	} {
		t.Run(name, func(t *testing.T) {
			root := attach(t, tree, c.conn, "", noUser)
			_, f, err := root.Walk([]string{"web"})
			require.NoError(t, err, "the name is for all to see")
			_, err = f.(*dir).walk("ctl")
			assert.Equal(t, c.want.read, err == nil, "walk")
			for i := range vmKind.rows {
				row := &vmKind.rows[i]
				fid := func() file { return newDir(&vmKind, node{s: root.s, vm: vm}, vmPath(vm), nil).row(i) }
				if row.perm&0o111 != 0 { // a directory in the VM's own
					_, _, err := fid().Open(p9.ReadOnly)
					assert.Equal(t, c.want.read, err == nil, "open of %s: %v", row.name, err)
					continue
				}
				for mode, want := range map[p9.OpenFlags]bool{
					p9.ReadOnly:                c.want.read,
					p9.WriteOnly:               c.want.write && row.perm&0o222 != 0,
					p9.ReadWrite:               c.want.read && c.want.write && row.perm&0o222 != 0,
					p9.ReadOnly | openTruncate: c.want.write && row.perm&0o222 != 0,
				} {
					file := fid()
					_, _, err := file.Open(mode)
					assert.Equal(t, want, err == nil, "open of %s with %#x: %v", row.name, uint32(mode), err)
					if err != nil {
						assert.Equal(t, linux.EACCES, linux.ExtractErrno(errnoOf(err)), "%s", row.name)
					}
					require.NoError(t, file.Close())
				}
				file := fid()
				_, _, attr, err := file.GetAttr(p9.AttrMaskAll)
				require.NoError(t, err)
				assert.Equal(t, p9.FileMode(row.perm&0o640), attr.Mode.Permissions(), row.name)
				assert.Equal(t, p9.UID(1001), attr.UID)
			}
			err = f.SetAttr(p9.SetAttrMask{Permissions: true}, p9.SetAttr{Permissions: 0o640})
			assert.Equal(t, c.want.own, err == nil, "chmod: %v", err)
			err = f.SetAttr(p9.SetAttrMask{UID: true}, p9.SetAttr{UID: 5})
			assert.Equal(t, name == "root", err == nil, "chown: %v", err)
			require.NoError(t, vm.SetOwner(machine.Owner{UID: 1001, GID: 2001, Mode: 0o640}))
			err = f.SetAttr(p9.SetAttrMask{GID: true}, p9.SetAttr{GID: 9})
			assert.Equal(t, name == "root", err == nil, "chgrp to a group of others: %v", err)
			require.NoError(t, vm.SetOwner(machine.Owner{UID: 1001, GID: 2001, Mode: 0o640}))
			if !c.want.own {
				err = root.UnlinkAt("web", 0x200)
				assert.Equal(t, linux.EACCES, linux.ExtractErrno(errnoOf(err)), "rmdir")
			}
		})
	}
	owner := attach(t, tree, peer(1001, 1001, 3001), "", noUser)
	_, f, err := owner.Walk([]string{"web"})
	require.NoError(t, err)
	require.NoError(t, f.SetAttr(p9.SetAttrMask{GID: true}, p9.SetAttr{GID: 3001}), "the owner gives a VM to a group of his")
	assert.Equal(t, uint32(3001), vm.Owner().GID)
}

func TestCreateGroup(t *testing.T) {
	host := newHost(t)
	group := uint32(500)
	tree := New(host, Options{CreateGroup: &group})
	for name, c := range map[string]struct {
		conn conn
		ok   bool
	}{
		"root":   {peer(0, 0), true},
		"member": {peer(1001, 1001, 500), true},
		"other":  {peer(1002, 1002), false},
		"nobody": {conn{}, false},
	} {
		root := attach(t, tree, c.conn, "", noUser)
		_, err := root.Mkdir("web", 0o750, p9.NoUID, p9.NoGID)
		assert.Equal(t, c.ok, err == nil, "%s: %v", name, err)
		if err != nil {
			assert.Equal(t, linux.EACCES, linux.ExtractErrno(errnoOf(err)), name)
			continue
		}
		vm, ok := host.VM("web")
		require.True(t, ok)
		want := machine.Owner{UID: c.conn.uid, GID: c.conn.groups[0], Mode: 0o750}
		assert.Equal(t, want, vm.Owner())
		require.NoError(t, root.UnlinkAt("web", 0x200))
	}
}

// TestUnknownNumber holds that a number which is no account's is in no group: not in the
// one of the same number, and so not in that of those who make VMs.
func TestUnknownNumber(t *testing.T) {
	const number = uint32(3999999999)
	host := newHost(t)
	group := number
	tree := New(host, Options{CreateGroup: &group})
	_, err := host.Create("web", machine.Owner{UID: 1001, GID: number, Mode: 0o770})
	require.NoError(t, err)
	for name, root := range map[string]*dir{
		"n_uname":       attach(t, tree, peer(0, 0), "", number),
		"uname":         attach(t, tree, peer(0, 0), fmt.Sprint(number), noUser),
		"of a listener": attach(t, tree, conn{fixed: fmt.Sprint(number)}, "", noUser),
	} {
		assert.Equal(t, number, root.s.user.uid, name)
		_, err := root.Mkdir("mine", 0o700, p9.NoUID, p9.NoGID)
		assert.ErrorIs(t, err, linux.EACCES, name)
		_, f, err := root.Walk([]string{"clone"})
		require.NoError(t, err, name)
		_, _, err = f.Open(p9.ReadWrite)
		assert.ErrorIs(t, err, linux.EACCES, name)
		ctl := mustWalk(t, root, "ctl").(*textFile)
		_, _, err = ctl.Open(p9.WriteOnly)
		require.NoError(t, err, name)
		_, err = ctl.WriteContext(t.Context(), []byte("create mine"), 0)
		assert.ErrorIs(t, err, linux.EACCES, name)
		_, _, err = mustWalk(t, root, "web").(*dir).Open(p9.ReadOnly)
		assert.ErrorIs(t, err, linux.EACCES, name)
	}
	assert.Len(t, host.VMs(), 1)
	root := attach(t, tree, peer(number, number), "", noUser)
	_, err = root.Mkdir("mine", 0o700, p9.NoUID, p9.NoGID)
	assert.NoError(t, err, "who has the group by the kernel's word")
}

func mustWalk(t *testing.T, root *dir, names ...string) p9.File {
	t.Helper()
	_, f, err := root.Walk(names)
	require.NoError(t, err)
	return f
}

// TestNobodyIsNoAccount holds that the clients of a listener without a user have
// others' bits, also where a VM belongs to the account that has their number.
func TestNobodyIsNoAccount(t *testing.T) {
	host := newHost(t)
	tree := New(host, Options{})
	for name, o := range map[string]machine.Owner{
		"owned": {UID: nobody, GID: 2001, Mode: 0o750}, "grouped": {UID: 1001, GID: nobody, Mode: 0o750},
	} {
		_, err := host.Create(name, o)
		require.NoError(t, err)
		_, f, err := attach(t, tree, conn{}, "", noUser).Walk([]string{name})
		require.NoError(t, err)
		_, _, err = f.Open(p9.ReadOnly)
		assert.ErrorIs(t, err, linux.EACCES, name)
		_, _, err = f.Walk([]string{"config"})
		assert.ErrorIs(t, err, linux.EACCES, name)
	}
	_, f, err := attach(t, tree, peer(nobody, nobody), "", noUser).Walk([]string{"owned"})
	require.NoError(t, err)
	_, _, err = f.Open(p9.ReadOnly)
	assert.NoError(t, err, "the account itself")
}

// TestOwnerIsTheVMs holds that mode and owner are changed at the VM's directory
// alone, and times by nobody who may not write.
func TestOwnerIsTheVMs(t *testing.T) {
	host := newHost(t)
	tree := New(host, Options{})
	mine := machine.Owner{UID: 1001, GID: 2001, Mode: 0o755}
	vm, err := host.Create("web", mine)
	require.NoError(t, err)
	mode, touch := p9.SetAttrMask{Permissions: true}, p9.SetAttrMask{MTime: true, ATime: true}
	set := p9.SetAttrMask{MTime: true, MTimeNotSystemTime: true}
	for name, c := range map[string]struct {
		conn           conn
		mode           error // of chmod of the VM
		touch, setTime error
	}{
		"root":   {peer(0, 0), nil, nil, nil},
		"owner":  {peer(1001, 1001), nil, nil, nil},
		"others": {peer(1003, 1003), linux.EPERM, linux.EACCES, linux.EPERM},
		"nobody": {conn{}, linux.EPERM, linux.EACCES, linux.EPERM},
	} {
		root := attach(t, tree, c.conn, "", noUser)
		is := func(want, err error, what string) {
			t.Helper()
			if want == nil {
				assert.NoError(t, err, "%s: %s", name, what)
				return
			}
			assert.ErrorIs(t, err, want, "%s: %s", name, what)
		}
		for _, path := range [][]string{{"web"}, {"web", "snapshots"}, {"web", "vsock"}, {"web", "state"}, {}} {
			_, f, err := root.Walk(path)
			require.NoError(t, err)
			want := c.mode
			if len(path) != 1 {
				want = linux.EPERM
			}
			is(want, f.SetAttr(mode, p9.SetAttr{Permissions: 0o700}), fmt.Sprint("chmod ", path))
			require.NoError(t, vm.SetOwner(mine))
			if len(path) > 0 {
				is(c.touch, f.SetAttr(touch, p9.SetAttr{}), fmt.Sprint("touch ", path))
				is(c.setTime, f.SetAttr(set, p9.SetAttr{}), fmt.Sprint("set times of ", path))
			}
		}
		_, f, err := root.Walk([]string{"web"})
		require.NoError(t, err)
		_ = f.SetAttr(p9.SetAttrMask{UID: true, GID: true}, p9.SetAttr{UID: p9.NoUID, GID: p9.NoGID})
		assert.Equal(t, mine, vm.Owner(), "%s: chown to -1 is none", name)
	}
}

// TestPermissionsBelow walks every class of user over what is in a VM's
// directories, with fids from before the VM was closed to them: what they open is
// checked when it is opened, and a directory when it is walked.
func TestPermissionsBelow(t *testing.T) {
	host := newHost(t)
	tree := New(host, Options{})
	vm, err := host.Create("web", machine.Owner{UID: 1001, GID: 2001, Mode: 0o666})
	require.NoError(t, err)
	require.NoError(t, ctl.Run(context.Background(), vm, "start\nsnapshot one"))
	paths := map[string]struct{ dir, readonly, acts bool }{
		"snapshots": {dir: true}, "snapshots/one": {dir: true}, "snapshots/one/config": {readonly: true}, "snapshots/one/info": {readonly: true},
		"vsock": {dir: true}, "vsock/listen": {dir: true}, "vsock/clone": {acts: true}, "vsock/7": {acts: true}, "vsock/listen/7": {acts: true},
	}
	for name, c := range map[string]struct {
		conn        conn
		read, write bool
	}{
		"root":   {peer(0, 0), true, true},
		"owner":  {peer(1001, 1001), true, true},
		"group":  {peer(1002, 1002, 2001), true, false},
		"others": {peer(1003, 1003), false, false},
		"nobody": {conn{}, false, false},
	} {
		root := attach(t, tree, c.conn, "", noUser)
		for path, is := range paths {
			what := name + ": " + path
			may := func(f p9.File, mode p9.OpenFlags) bool {
				_, _, err := f.Open(mode)
				require.NoError(t, f.Close())
				return linux.ExtractErrno(errnoOf(err)) != linux.EACCES
			}
			require.NoError(t, vm.SetOwner(machine.Owner{UID: 1001, GID: 2001, Mode: 0o666}))
			names := append([]string{"web"}, strings.Split(path, "/")...)
			var fids [3]p9.File
			for i := range fids {
				_, f, err := root.Walk(names)
				require.NoError(t, err, what)
				fids[i] = f
			}
			require.NoError(t, vm.SetOwner(machine.Owner{UID: 1001, GID: 2001, Mode: 0o640}))
			if is.dir {
				_, _, err := fids[1].Walk([]string{"config"})
				denied := linux.ExtractErrno(errnoOf(err)) == linux.EACCES
				assert.Equal(t, c.read, !denied, "%s: walk: %v", what, err)
				err = fids[2].(*dir).UnlinkAt("nothing", 0x200)
				if path == "snapshots" {
					denied = linux.ExtractErrno(errnoOf(err)) == linux.EACCES
					assert.Equal(t, c.write, !denied, "%s: rmdir: %v", what, err)
				} else {
					assert.ErrorIs(t, err, linux.EPERM, what)
				}
			} else {
				assert.Equal(t, c.write && !is.readonly, may(fids[1], p9.WriteOnly), "%s: write", what)
				assert.Equal(t, c.read && c.write && !is.readonly, may(fids[2], p9.ReadWrite), "%s: read and write", what)
			}
			assert.Equal(t, c.read && (c.write || !is.acts), may(fids[0], p9.ReadOnly), "%s: read", what)
		}
	}
	require.NoError(t, vm.Kill(context.Background()))
	names, err := vm.Snapshots()
	require.NoError(t, err)
	assert.Equal(t, []string{"one"}, names)
}

// TestSetAttrIsOne: a mode is changed with all else that is asked for, or not at all.
func TestSetAttrIsOne(t *testing.T) {
	host := newHost(t)
	tree := New(host, Options{})
	vm, err := host.Create("web", machine.Owner{UID: 1001, GID: 2001, Mode: 0o750})
	require.NoError(t, err)
	f, err := tree.AttachUser(context.Background(), peer(1001, 2001), "", noUser, "/web")
	require.NoError(t, err)
	for _, c := range []struct {
		what  string
		valid p9.SetAttrMask
		attr  p9.SetAttr
		errno linux.Errno
	}{
		{"a size, which no directory has", p9.SetAttrMask{Permissions: true, Size: true}, p9.SetAttr{Permissions: 0o700}, linux.EISDIR},
		{"an owner whom only root can set", p9.SetAttrMask{Permissions: true, UID: true}, p9.SetAttr{Permissions: 0o700, UID: 5}, linux.EPERM},
		{"a group of others", p9.SetAttrMask{Permissions: true, GID: true}, p9.SetAttr{Permissions: 0o700, GID: 9}, linux.EPERM},
		{"set-user-ID", p9.SetAttrMask{Permissions: true}, p9.SetAttr{Permissions: 0o4700}, linux.EPERM},
		{"the sticky bit", p9.SetAttrMask{Permissions: true}, p9.SetAttr{Permissions: 0o1750}, linux.EPERM},
	} {
		err := f.SetAttr(c.valid, c.attr)
		assert.Equal(t, c.errno, errnoOf(err), "%s: %v", c.what, err)
		assert.Equal(t, machine.Owner{UID: 1001, GID: 2001, Mode: 0o750}, vm.Owner(), c.what)
	}
	require.NoError(t, f.SetAttr(p9.SetAttrMask{Permissions: true, GID: true, MTime: true}, p9.SetAttr{Permissions: 0o700, GID: 2001}))
	assert.EqualValues(t, 0o700, vm.Owner().Mode)
}

// TestChownRace holds that who has lost a VM does not get it back by a chmod that
// was under way.
func TestChownRace(t *testing.T) {
	host := newHost(t)
	tree := New(host, Options{})
	vm, err := host.Create("web", machine.Owner{UID: 1001, GID: 1001, Mode: 0o700})
	require.NoError(t, err)
	_, f, err := attach(t, tree, peer(1001, 1001), "", noUser).Walk([]string{"web"})
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for mode := p9.FileMode(0); f.SetAttr(p9.SetAttrMask{Permissions: true}, p9.SetAttr{Permissions: 0o700 | mode&0o77}) == nil; mode++ {
		}
	}()
	require.NoError(t, vm.SetOwner(machine.Owner{UID: 1002, GID: 1002, Mode: 0o700}))
	<-done // it is refused now
	assert.Equal(t, machine.Owner{UID: 1002, GID: 1002, Mode: 0o700}, vm.Owner())
}

// TestFixedNames holds that a VM keeps its name, and that no file can be opened
// to go with its fid.
func TestFixedNames(t *testing.T) {
	host := newHost(t)
	root := attach(t, New(host, Options{}), peer(0, 0), "", noUser)
	_, err := host.Create("web", machine.Owner{Mode: 0o700})
	require.NoError(t, err)
	err = root.RenameAt("web", root, "db")
	assert.ErrorIs(t, err, linux.EPERM)
	assert.ErrorContains(t, err, "rename web: a VM keeps its name")
	assert.ErrorIs(t, root.RenameAt("ctl", root, "db"), linux.EPERM)
	_, web, err := root.Walk([]string{"web"})
	require.NoError(t, err)
	assert.ErrorIs(t, web.(*dir).CanRemove("state"), linux.EPERM)
}

// TestEventsOfOthers holds that a user sees nothing of the VMs he may not read.
func TestEventsOfOthers(t *testing.T) {
	host := newHost(t)
	tree := New(host, Options{})
	uid := uint32(os.Getuid())
	user := attach(t, tree, peer(1001, 1001), "", noUser)
	_, f, err := user.Walk([]string{"events"})
	require.NoError(t, err)
	_, _, err = f.Open(p9.ReadOnly)
	require.NoError(t, err)
	_, err = host.Create("secret", machine.Owner{UID: uid, Mode: 0o700})
	require.NoError(t, err)
	_, err = host.Create("open", machine.Owner{UID: 1001, Mode: 0o700})
	require.NoError(t, err)
	buf := make([]byte, 1000)
	n, err := f.(*streamFile).ReadContext(context.Background(), buf, 0)
	require.NoError(t, err)
	assert.Contains(t, string(buf[:n]), " open created")
	assert.NotContains(t, string(buf[:n]), "secret")
	require.NoError(t, f.Close())
}

// TestPrivateVM holds that what happens to a VM shows nowhere to who may not read it: not in
// the version and the times of its directory, and not in the events, of which there are more
// here than wait for a slow reader.
func TestPrivateVM(t *testing.T) {
	host := newHost(t)
	tree := New(host, Options{})
	vm, err := host.Create("secret", machine.Owner{UID: 1001, GID: 2001, Mode: 0o750})
	require.NoError(t, err)
	seen := func(root *dir) (all []any) {
		for _, names := range [][]string{nil, {"secret"}} {
			qids, f, err := root.Walk(names)
			require.NoError(t, err)
			q, _, attr, err := f.GetAttr(p9.AttrMaskAll)
			require.NoError(t, err)
			all = append(all, qids, q, attr)
		}
		_, _, err := root.Open(p9.ReadOnly)
		require.NoError(t, err)
		ents, err := root.Readdir(0, 1000)
		require.NoError(t, err)
		return append(all, ents)
	}
	for name, c := range map[string]struct {
		conn conn
		sees bool
	}{
		"nobody": {conn{}, false}, "others": {peer(1003, 1003), false},
		"owner": {peer(1001, 1001), true}, "group": {peer(1002, 2001), true}, "root": {peer(0, 0), true},
	} {
		root := attach(t, tree, c.conn, "", noUser)
		feed := mustWalk(t, root, "events").(*streamFile)
		_, _, err := feed.Open(p9.ReadOnly)
		require.NoError(t, err)
		before := seen(attach(t, tree, c.conn, "", noUser))
		for range 1200 {
			vm.RecordVsock(hypervisor.Detail{Key: "secret", Value: "yes"})
		}
		require.NoError(t, vm.SetConfig(t.Context(), "vcpus=2", false))
		require.NoError(t, vm.SetConfig(t.Context(), "vcpus=1", false))
		require.NoError(t, ctl.Run(t.Context(), vm, "start"))
		require.NoError(t, vm.Kill(t.Context()))
		after := seen(attach(t, tree, c.conn, "", noUser))
		assert.Equal(t, c.sees, !reflect.DeepEqual(before, after), "%s: %+v, then %+v", name, before, after)
		_, err = host.Create("end", machine.Owner{Mode: 0o744})
		require.NoError(t, err)
		buf, text := make([]byte, 1<<16), ""
		for !strings.Contains(text, " end created") {
			n, err := feed.ReadContext(t.Context(), buf, 0)
			require.NoError(t, err)
			text += string(buf[:n])
		}
		assert.Equal(t, c.sees, strings.Contains(text, "secret"), "%s: %.200s", name, text)
		assert.Equal(t, c.sees, strings.Contains(text, " lost "), "%s: %.200s", name, text)
		require.NoError(t, feed.Close())
		require.NoError(t, host.Delete(t.Context(), "end"))
	}
}

// verbArgs are arguments that each verb takes.
var verbArgs = map[string]string{
	"snapshot": "snap", "restore": "snap", "memory": "64M", "set": "vcpus=2", "wait": "running 1ms", "create": "new", "delete": "web",
}

// TestVerbs walks every class of user over every verb, and over what makes and
// removes VMs: who may not is told so and changes nothing.
func TestVerbs(t *testing.T) {
	group := uint32(500)
	for name, c := range map[string]struct {
		conn               conn
		write, create, own bool
	}{
		"root":                     {peer(0, 0), true, true, true},
		"the server's user":        {peer(ownUID(), ownGID()), true, true, true},
		"owner":                    {peer(1001, 1001), true, false, true},
		"owner who may create":     {peer(1001, 1001, 500), true, true, true},
		"group":                    {peer(1002, 1002, 2001), true, false, false},
		"group, and may create":    {peer(1002, 1002, 2001, 500), true, true, false},
		"others":                   {peer(1003, 1003), false, false, false},
		"others who may create":    {peer(1003, 1003, 500), false, true, false},
		"nobody, by TCP":           {conn{}, false, false, false},
		"owner, by TCP":            {conn{fixed: "1001"}, true, false, true},
		"others, by TCP":           {conn{fixed: "1003"}, false, false, false},
		"one who claims the owner": {peer(1003, 1003), false, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			host := newHost(t)
			tree := New(host, Options{CreateGroup: &group})
			mine := machine.Owner{UID: 1001, GID: 2001, Mode: 0o770}
			vm, err := host.Create("web", mine)
			require.NoError(t, err)
			root := attach(t, tree, c.conn, "1001", 1001)
			if c.conn.known && tree.trusted(c.conn.uid) {
				root = attach(t, tree, c.conn, "", noUser)
			}
			// try writes a message to a ctl file and tells whether it was allowed.
			try := func(in *dir, text string) bool {
				t.Helper()
				f, err := in.walk("ctl")
				if err == nil {
					if _, _, err = f.Open(p9.WriteOnly); err == nil {
						_, err = f.(*textFile).WriteContext(context.Background(), []byte(text), 0)
					}
				}
				return linux.ExtractErrno(errnoOf(err)) != linux.EACCES
			}
			web, err := root.walk("web")
			require.NoError(t, err)
			for _, v := range ctl.VMVerbs() {
				gen := vm.Gen()
				assert.Equal(t, c.write, try(web.(*dir), v.Name+" "+verbArgs[v.Name]), v.Name)
				if !c.write {
					assert.Equal(t, gen, vm.Gen(), v.Name)
				}
			}
			if vm.State() != hypervisor.StateCreated {
				_ = vm.Kill(context.Background())
			}

			for _, v := range ctl.ServerVerbs() {
				want := map[string]bool{"create": c.create, "delete": c.own}
				require.Contains(t, want, v.Name)
				assert.Equal(t, want[v.Name], try(root, v.Name+" "+verbArgs[v.Name]), v.Name)
			}
			_, ok := host.VM("web")
			assert.Equal(t, !c.own, ok)
			if ok {
				assert.Equal(t, mine, vm.Owner())
			} else {
				_, err = host.Create("web", mine)
				require.NoError(t, err)
			}
			_, ok = host.VM("new")
			assert.Equal(t, c.create, ok)

			_, err = root.Mkdir("dir", 0o700, p9.NoUID, p9.NoGID)
			assert.Equal(t, c.create, err == nil, "mkdir: %v", err)
			_, f, err := root.Walk([]string{"clone"})
			require.NoError(t, err)
			_, _, err = f.Open(p9.ReadOnly)
			assert.Equal(t, c.create, err == nil, "clone: %v", err)
			err = root.UnlinkAt("web", 0x200)
			assert.Equal(t, c.own, err == nil, "rmdir: %v", err)
			if err != nil {
				assert.Equal(t, linux.EACCES, linux.ExtractErrno(errnoOf(err)))
			}
		})
	}
}
