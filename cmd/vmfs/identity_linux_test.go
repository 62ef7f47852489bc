package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"9fans.net/go/plan9"
	"9fans.net/go/plan9/client"
	"github.com/hugelgupf/p9/linux"
	"github.com/hugelgupf/p9/p9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"vmfs/ninep/dial"
)

// A person is a user of the host who connects to a server's socket.
type person struct {
	name     string
	uid, gid uint32
	groups   []uint32
}

const (
	gidSocket  = 7001 // may connect
	gidCreate  = 7002 // may make VMs
	gidProject = 7003 // the group of the VM
)

var (
	rootUser = person{"root", 0, 0, nil}
	owner    = person{"owner", 7101, 7201, []uint32{gidSocket, gidCreate, gidProject}}
	member   = person{"member", 7102, 7202, []uint32{gidSocket, gidProject}}
	other    = person{"other", 7103, 7203, []uint32{gidSocket, gidCreate}}
	outsider = person{"outsider", 7104, 7204, []uint32{gidProject}}
)

// manyUsers is a server with a socket for many users.
type manyUsers struct {
	*server
	sock string
	bin  string // vmfs where everybody can run it
}

func newManyUsers(t *testing.T) *manyUsers {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("the tests of identity are run by root")
		}
		t.Skip("only root can act as several users: sudo go test ./cmd/vmfs")
	}
	s := &manyUsers{server: newServer(t)}
	require.NoError(t, os.Chmod(s.dir, 0o711))
	s.sock = filepath.Join(s.dir, "shared")
	s.bin = filepath.Join(s.dir, "vmfs")
	self, err := os.Open("/proc/self/exe")
	require.NoError(t, err)
	defer self.Close()
	out, err := os.OpenFile(s.bin, os.O_CREATE|os.O_WRONLY, 0o755)
	require.NoError(t, err)
	_, err = io.Copy(out, self)
	require.NoError(t, err)
	require.NoError(t, out.Close())
	s.up()
	return s
}

func (s *manyUsers) up() {
	s.t.Helper()
	s.start("--listen", fmt.Sprintf("unix!%s,group=%d", s.sock, gidSocket), "--create-group", fmt.Sprint(gidCreate),
		"--listen", "tcp!127.0.0.1!0", "--listen", "tcp!127.0.0.1!0,user="+fmt.Sprint(owner.uid))
}

// as runs a client command in a process of the person's.
func (s *manyUsers) as(p person, stdin string, args ...string) (out string, err error) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := s.command(ctx, p, args...)
	cmd.Stdin = strings.NewReader(stdin)
	var buf, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &buf, &errs
	if err := cmd.Run(); err != nil {
		require.NoError(s.t, ctx.Err(), "%s: vmfs %q hangs", p.name, args)
		return buf.String(), fmt.Errorf("%w: %s", err, errs.String())
	}
	return buf.String(), nil
}

func (s *manyUsers) command(ctx context.Context, p person, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, s.bin, args...)
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), "VMFS_ADDR=unix!"+s.sock, "HOME=/")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: p.uid, Gid: p.gid, Groups: p.groups}}
	return cmd
}

// dial connects as the person, with whom the kernel then sees at the other
// end, for clients that claim what they like.
func (s *manyUsers) dial(p person) net.Conn {
	s.t.Helper()
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result)
	go func() {
		// The ids of a thread are its own; it ends with the goroutine.
		runtime.LockOSThread()
		conn, err := dialAs(p, s.sock)
		done <- result{conn, err}
	}()
	r := <-done
	require.NoError(s.t, r.err)
	s.t.Cleanup(func() { r.conn.Close() })
	return r.conn
}

func dialAs(p person, sock string) (net.Conn, error) {
	groups := append([]uint32{p.gid}, p.groups...)
	if _, _, e := syscall.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(&groups[0])), 0); e != 0 {
		return nil, e
	}
	gid, uid := uintptr(p.gid), uintptr(p.uid)
	if _, _, e := syscall.RawSyscall(unix.SYS_SETRESGID, gid, gid, gid); e != 0 {
		return nil, e
	}
	if _, _, e := syscall.RawSyscall(unix.SYS_SETRESUID, uid, uid, uid); e != 0 {
		return nil, e
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), sock)
	defer f.Close()
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: sock}); err != nil {
		return nil, err
	}
	return net.FileConn(f)
}

// plan9 attaches as a 9P2000 client that claims to be uname.
func (s *manyUsers) plan9(conn net.Conn, uname string) *client.Fsys {
	s.t.Helper()
	c, err := client.NewConn(conn)
	require.NoError(s.t, err)
	fsys, err := c.Attach(nil, uname, "")
	require.NoError(s.t, err)
	return fsys
}

// tryOpen attaches in 9P2000.L with what is claimed and opens a path; it returns
// the errno.
func tryOpen(t *testing.T, conn net.Conn, uname string, nuname uint32, flags uint32, path ...string) syscall.Errno {
	t.Helper()
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	steps := [][]any{
		{uint8(100), uint32(8192), "9P2000.L"},
		{uint8(104), uint32(0), ^uint32(0), uname, "", nuname},
	}
	for _, name := range path {
		steps = append(steps, []any{uint8(110), uint32(0), uint32(0), uint16(1), name})
	}
	for _, m := range append(steps, []any{uint8(12), uint32(0), flags}) {
		b := []byte{0, 0, 0, 0, m[0].(uint8), 1, 0}
		for _, f := range m[1:] {
			if text, ok := f.(string); ok {
				b = append(binary.LittleEndian.AppendUint16(b, uint16(len(text))), text...)
				continue
			}
			b, _ = binary.Append(b, binary.LittleEndian, f)
		}
		binary.LittleEndian.PutUint32(b, uint32(len(b)))
		_, err := conn.Write(b)
		require.NoError(t, err)
		head := make([]byte, 7)
		_, err = io.ReadFull(conn, head)
		require.NoError(t, err)
		body := make([]byte, binary.LittleEndian.Uint32(head)-7)
		_, err = io.ReadFull(conn, body)
		require.NoError(t, err)
		if head[4] == 7 {
			return syscall.Errno(binary.LittleEndian.Uint32(body))
		}
	}
	return 0
}

const (
	noUname = ^uint32(0)
	oRdonly = 0
	oWronly = 1
)

// TestManyUsers is a host with several users on one Unix socket: what each can
// do, whatever he says he is.
func TestManyUsers(t *testing.T) {
	s := newManyUsers(t)

	_, err := s.as(outsider, "", "ls")
	assert.ErrorContains(t, err, "permission denied", "who is not in the socket's group does not get in")
	assert.ErrorContains(t, err, "lets in its server's user and root", "and what to do about it")
	_, err = s.as(member, "", "mkdir", "web")
	assert.ErrorContains(t, err, "permission denied", "who is not in --create-group makes no VMs")
	_, err = s.as(owner, "", "mkdir", "-m", "0700", "web")
	require.NoError(t, err)
	_, err = s.as(owner, "hypervisor=sim\n", "write", "web/config")
	require.NoError(t, err)

	// The owner changes mode and group by a 9P2000 client's wstat; a group that
	// he is not in he cannot give it to, nor the VM away.
	fsys := s.plan9(s.dial(owner), "root")
	wstat := func(fsys *client.Fsys, change func(d *plan9.Dir)) error {
		fid, err := fsys.Open("web", plan9.OREAD)
		if err != nil {
			return err
		}
		defer fid.Close()
		var d plan9.Dir
		d.Null()
		change(&d)
		return fid.Wstat(&d)
	}
	require.NoError(t, wstat(fsys, func(d *plan9.Dir) { d.Gid, d.Mode = fmt.Sprint(gidProject), plan9.DMDIR|0o750 }))
	assert.ErrorContains(t, wstat(fsys, func(d *plan9.Dir) { d.Gid = "daemon" }), "not a member")
	assert.ErrorContains(t, wstat(fsys, func(d *plan9.Dir) { d.Uid = "daemon" }), "cannot change the owner", "stat(5): nobody can")
	d, err := fsys.Stat("web")
	require.NoError(t, err)
	assert.Equal(t, fmt.Sprint(owner.uid), d.Uid)
	assert.Equal(t, fmt.Sprint(gidProject), d.Gid)
	assert.Equal(t, plan9.Perm(plan9.DMDIR|0o750), d.Mode)
	d, err = fsys.Stat("ctl")
	require.NoError(t, err)
	assert.Equal(t, "root", d.Uid, "users whom the host knows have names")

	sealed, err := fsys.Create("sealed", plan9.OREAD, plan9.DMDIR|0o300)
	require.NoError(t, err, "open(5): the permissions of what is made do not hold for its maker's fid")
	_, err = sealed.Dirread()
	assert.Error(t, err, "but a VM that may not be read is not")
	require.NoError(t, sealed.Remove())

	may := func(p person, want string) {
		t.Helper()
		_, err := s.as(p, "", "cat", "web/state")
		assert.Equal(t, strings.Contains(want, "r"), err == nil, "%s reads: %v", p.name, err)
		_, err = s.as(p, "# nothing\n", "write", "web/ctl")
		assert.Equal(t, strings.Contains(want, "w"), err == nil, "%s writes: %v", p.name, err)
		if err != nil {
			assert.ErrorContains(t, err, "permission denied")
		}
	}
	may(rootUser, "rw")
	may(owner, "rw")
	may(member, "r")
	may(other, "")
	_, err = s.as(member, "", "rmdir", "web")
	assert.ErrorContains(t, err, "permission denied")

	// Claims: nobody but root is believed.
	for name, c := range map[string]struct {
		who    person
		uname  string
		nuname uint32
		want   syscall.Errno
	}{
		"other":                             {other, "", noUname, syscall.EACCES},
		"other claims root by name":         {other, "root", noUname, syscall.EACCES},
		"other claims root by number":       {other, "", 0, syscall.EACCES},
		"other claims the owner":            {other, "", owner.uid, syscall.EACCES},
		"root":                              {rootUser, "", noUname, 0},
		"root for itself":                   {rootUser, "root", 0, 0},
		"root for the owner by number":      {rootUser, "", owner.uid, 0},
		"root for the owner by name":        {rootUser, fmt.Sprint(owner.uid), noUname, 0},
		"root for other by number":          {rootUser, "", other.uid, syscall.EACCES},
		"root for other by name":            {rootUser, fmt.Sprint(other.uid), noUname, syscall.EACCES},
		"root for a name that is not known": {rootUser, "no-such-user", noUname, syscall.EACCES},
		"root for one who is in no group":   {rootUser, "", member.uid, syscall.EACCES}, // this host has no such account
	} {
		assert.Equal(t, c.want, tryOpen(t, s.dial(c.who), c.uname, c.nuname, oRdonly, "web", "state"), name)
	}
	_, err = s.plan9(s.dial(other), "root").Open("web", plan9.OREAD)
	assert.ErrorContains(t, err, fmt.Sprintf("VM web belongs to user %d", owner.uid), "the whole text reaches a 9P2000 client")

	// The listeners on TCP: nobody, and a fixed user.
	tcp := func(i int) net.Conn {
		conn, err := dial.Dial(t.Context(), s.tcps[i])
		require.NoError(t, err)
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	assert.Equal(t, syscall.EACCES, tryOpen(t, tcp(0), "root", 0, oRdonly, "web", "state"), "nobody is not root")
	require.NoError(t, wstat(fsys, func(d *plan9.Dir) { d.Mode = plan9.DMDIR | 0o757 }))
	assert.Zero(t, tryOpen(t, tcp(0), "root", 0, oRdonly, "web", "state"), "nobody reads what all may read")
	assert.Equal(t, syscall.EACCES, tryOpen(t, tcp(0), "root", 0, oWronly, "web", "ctl"), "nobody writes nothing")
	assert.Equal(t, syscall.EACCES, tryOpen(t, tcp(0), "root", 0, oWronly, "ctl"), "nor the server's ctl")
	may(other, "rw")
	require.NoError(t, wstat(fsys, func(d *plan9.Dir) { d.Mode = plan9.DMDIR | 0o750 }))
	assert.Zero(t, tryOpen(t, tcp(1), "nobody", 65534, oWronly, "web", "ctl"), "the fixed user, whatever is claimed")

	// The root's events hide the VMs of others.
	watch := s.command(t.Context(), other, "cat", "events")
	seen := &logBuffer{}
	watch.Stdout, watch.Stderr = seen, seen
	require.NoError(t, watch.Start())
	t.Cleanup(func() { _ = watch.Process.Kill(); _ = watch.Wait() })
	require.Eventually(t, func() bool {
		_, err := s.as(other, "", "mkdir", "mine")
		require.NoError(t, err)
		_, err = s.as(other, "", "rmdir", "mine")
		require.NoError(t, err)
		return strings.Contains(seen.String(), " mine created")
	}, patience, 10*time.Millisecond, "his own he sees")
	_, err = s.as(owner, "start\n", "write", "web/ctl")
	require.NoError(t, err)
	_, err = s.as(other, "", "mkdir", "last")
	require.NoError(t, err)
	seen.expect(t, " last created")
	assert.NotContains(t, seen.String(), " web ")
	assert.Contains(t, seen.String(), " mine deleted", "also that a VM of his is gone")

	// All of it outlives the server.
	s.kill()
	s.up()
	out, err := s.as(owner, "", "stat", "web")
	require.NoError(t, err)
	assert.Contains(t, out, fmt.Sprintf("mode=drwxr-x---\nuid=%d\ngid=%d\n", owner.uid, gidProject))
	may(owner, "rw")
	may(member, "r")
	may(other, "")

	// Root gives it away; the owner cannot.
	chown := func(p person) error {
		c, err := p9.NewClient(s.dial(p))
		require.NoError(t, err)
		root, err := c.Attach("")
		require.NoError(t, err)
		_, web, err := root.Walk([]string{"web"})
		require.NoError(t, err)
		return web.SetAttr(p9.SetAttrMask{UID: true, GID: true}, p9.SetAttr{UID: 1, GID: 1})
	}
	assert.ErrorIs(t, chown(owner), linux.EPERM)
	assert.ErrorIs(t, chown(member), linux.EPERM)
	require.NoError(t, chown(rootUser))
	d, err = s.plan9(s.dial(rootUser), "").Stat("web")
	require.NoError(t, err)
	assert.Equal(t, "daemon daemon", d.Uid+" "+d.Gid)
	may(owner, "")
	may(rootUser, "rw")
}
