package main

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/client"
	"vmfs/ninep/dial"
)

// chunks is a Reader that gives one string a read, and a Writer that keeps each
// write.
type chunks struct {
	in  []string
	out []string
	err error // at the end of in; nil is io.EOF
}

func (c *chunks) Read(p []byte) (int, error) {
	if len(c.in) == 0 {
		if c.err != nil {
			return 0, c.err
		}
		return 0, io.EOF
	}
	n := copy(p, c.in[0])
	if c.in[0] = c.in[0][n:]; c.in[0] == "" {
		c.in = c.in[1:]
	}
	return n, nil
}

func (c *chunks) Write(p []byte) (int, error) {
	c.out = append(c.out, string(p))
	return len(p), nil
}

func TestCopyLines(t *testing.T) {
	long := strings.Repeat("x", ioSize+10)
	for _, c := range []struct {
		name    string
		in, out []string
	}{
		{"nothing", nil, nil},
		{"a line", []string{"start\n"}, []string{"start\n"}},
		{"lines that come together stay together", []string{"a=1\nb=2\n"}, []string{"a=1\nb=2\n"}},
		{"a line in pieces is put together", []string{"sta", "rt\npau", "se\n"}, []string{"start\n", "pause\n"}},
		{"the end of the input ends a line", []string{"a\nsta", "rt"}, []string{"a\n", "start"}},
		{"a line that is too long is cut", []string{long, "\n"}, []string{long[:ioSize], long[ioSize:] + "\n"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			rw := &chunks{in: c.in}
			require.NoError(t, copyLines(rw, rw))
			assert.Equal(t, c.out, rw.out)
		})
	}
}

func TestCopyLinesInputFails(t *testing.T) {
	broken := errors.New("broken")
	rw := &chunks{in: []string{"a\nb"}, err: broken}
	require.ErrorIs(t, copyLines(rw, rw), broken)
	assert.Equal(t, []string{"a\n", "b"}, rw.out, "what was read before the failure")
	require.ErrorIs(t, copyLines(io.Discard, iotest.ErrReader(broken)), broken)
}

func TestPaths(t *testing.T) {
	for in, want := range map[string][]string{
		"":                {},
		"/":               {},
		"web":             {"web"},
		"/web/ctl":        {"web", "ctl"},
		"web//vsock/./12": {"web", "vsock", "12"},
		"../../web/../db": {"db"},
	} {
		assert.Equal(t, want, append([]string{}, client.Split(in)...), in)
	}
	for in, want := range map[string]string{
		"web": "web", "/web/ctl": "web", "web/": "web",
		"": "", "/": "", "ctl": "", "events": "", "backends/qemu/version": "", "clone": "", "version": "",
	} {
		assert.Equal(t, want, vmOf(in), in)
	}
	for in, want := range map[string]sharing{
		"clone": cloned, "web/vsock/clone": cloned,
		"web/console": shared, "web/vsock/3/data": shared,
		"web/vsock/3/ctl": text, "web/ctl": text, "web": text, "": text,
	} {
		assert.Equal(t, want, sharingOf(in), in)
	}
}

func TestMountLine(t *testing.T) {
	for _, c := range []struct {
		addr, dir, want string
	}{
		{"unix!/run/vmfs/vmfs.sock", "/n/vm", "mount -t 9p -o trans=unix,version=9p2000.L,access=user,cache=none,msize=131072,uname=ann /run/vmfs/vmfs.sock /n/vm"},
		{"tcp!127.0.0.1", "/n/vm", "mount -t 9p -o trans=tcp,port=564,version=9p2000.L,access=user,cache=none,msize=131072,uname=ann 127.0.0.1 /n/vm"},
		{"tcp!*!1234", "/n/my vms", "mount -t 9p -o trans=tcp,port=1234,version=9p2000.L,access=user,cache=none,msize=131072,uname=ann 127.0.0.1 '/n/my vms'"},
	} {
		line, err := mountLine(t.Context(), c.addr, c.dir, "user", "ann")
		require.NoError(t, err, c.addr)
		assert.Equal(t, c.want, shellJoin(line))
	}
	for addr, want := range map[string]string{
		"vsock!2!564":    "no vsock transport",
		"tcp!::1!564":    "IPv4",
		"udp!host":       "unknown network",
		"/run/vmfs.sock": "did you mean unix!/run/vmfs.sock?",
	} {
		_, err := mountLine(t.Context(), addr, "/n", "user", "ann")
		assert.ErrorContains(t, err, want, addr)
	}
	_, err := mountLine(t.Context(), "unix!/s", "/n", "user", "a,b")
	assert.ErrorContains(t, err, "a,b")
}

func TestShellQuote(t *testing.T) {
	for in, want := range map[string]string{
		"":          "''",
		"/a/b-c.d":  "/a/b-c.d",
		"a b":       "'a b'",
		"it's":      `'it'\''s'`,
		"$HOME;rm":  "'$HOME;rm'",
		"~/x":       "'~/x'",
		"unix!/x":   "'unix!/x'",
		"a=b,c=d:e": "a=b,c=d:e",
	} {
		assert.Equal(t, want, shellQuote(in))
	}
}

func TestParseListen(t *testing.T) {
	all, err := parseListen([]string{"unix!/s,with,commas", "tcp!127.0.0.1!0,user=0", "unix!/s,group=7", "unix!/s,a=b,mode=0666", "unix!/s,group=0,mode=0620,user=5"})
	require.NoError(t, err)
	gid := func(n uint32) *uint32 { return &n }
	assert.Equal(t, []endpoint{
		{addr: dial.Addr{Net: "unix", Host: "/s,with,commas"}},
		{addr: dial.Addr{Net: "tcp", Host: "127.0.0.1", Port: "0"}, user: "0"},
		{addr: dial.Addr{Net: "unix", Host: "/s"}, group: gid(7), mode: 0o660},
		{addr: dial.Addr{Net: "unix", Host: "/s,a=b"}, mode: 0o666},
		{addr: dial.Addr{Net: "unix", Host: "/s"}, group: gid(0), mode: 0o620, user: "5"},
	}, all)

	for in, want := range map[string]string{
		"tcp!127.0.0.1!0,user=no-such-user": `no user "no-such-user"`,
		"tcp!127.0.0.1!0,user=":             `no user ""`,
		"unix!/s,group=no-such-group":       `no group "no-such-group"`,
		"unix!/s,mode=rw":                   `mode "rw" is not octal`,
		"unix!/s,mode=07777":                `mode "07777" is not octal`,
		"tcp!127.0.0.1!0,mode=0666":         "mode= is for Unix sockets",
		"127.0.0.1:564":                     "want unix!/path",
		"":                                  "want unix!/path",
	} {
		_, err := parseListen([]string{in})
		var u *usageError
		require.ErrorAs(t, err, &u, in)
		assert.ErrorContains(t, err, want)
	}
}

// addrListener is a listener at an address that a test chose.
type addrListener struct{ addr net.Addr }

func (l addrListener) Accept() (net.Conn, error) { return nil, net.ErrClosed }
func (l addrListener) Close() error              { return nil }
func (l addrListener) Addr() net.Addr            { return l.addr }

func TestWarnOpen(t *testing.T) {
	for _, c := range []struct {
		name string
		addr net.Addr
		user string
		want []string // nothing logged where empty
	}{
		{"a Unix socket", &net.UnixAddr{Name: "/s", Net: "unix"}, "", nil},
		{"loopback", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 564}, "ann", []string{"INFO", "every local user", "act as user ann"}},
		{"IPv6 loopback", &net.TCPAddr{IP: net.IPv6loopback, Port: 564}, "", []string{"INFO", "read all that is readable"}},
		{"every address", &net.TCPAddr{IP: net.IPv6unspecified, Port: 564}, "ann", []string{"WARN", "OPEN TO THE NETWORK", "act as user ann", "tcp!*!564"}},
		{"one address", &net.TCPAddr{IP: net.IPv4(10, 0, 0, 7), Port: 564}, "", []string{"WARN", "OPEN TO THE NETWORK", "read all that is readable", "tcp!10.0.0.7!564"}},
		{"guests", dial.Addr{Net: "vsock", Host: "2", Port: "564"}, "ann", []string{"WARN", "OPEN TO GUESTS", "vsock!2!564"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out strings.Builder
			warnOpen(slog.New(slog.NewTextHandler(&out, nil)), addrListener{c.addr}, endpoint{user: c.user})
			if len(c.want) == 0 {
				assert.Empty(t, out.String())
			}
			for _, w := range c.want {
				assert.Contains(t, out.String(), w)
			}
		})
	}
}

func TestDefaultPlaces(t *testing.T) {
	xdg := map[string]string{"XDG_RUNTIME_DIR": "/run/user/1000", "XDG_STATE_HOME": "/home/ann/state"}
	for _, c := range []struct {
		goos  string
		root  bool
		home  string
		env   map[string]string
		wants places
	}{
		{"linux", false, "/home/ann", xdg, places{"/home/ann/state/vmfs", "/run/user/1000/vmfs/vmfs.sock"}},
		{"linux", false, "/home/ann", nil, places{"/home/ann/.local/state/vmfs", "/run/vmfs/vmfs.sock"}},
		{"linux", true, "/root", xdg, places{"/var/lib/vmfs", "/run/vmfs/vmfs.sock"}},
		{"linux", false, "", nil, places{"", "/run/vmfs/vmfs.sock"}},
		{"linux", false, "/home/ann", map[string]string{"XDG_STATE_HOME": "state"}, places{"/home/ann/.local/state/vmfs", "/run/vmfs/vmfs.sock"}},
		{"darwin", false, "/Users/ann", nil, places{"/Users/ann/Library/vmfs", "/Users/ann/Library/vmfs/vmfs.sock"}},
		{"darwin", false, "/Users/ann", xdg, places{"/home/ann/state/vmfs", "/run/user/1000/vmfs/vmfs.sock"}},
		{"darwin", true, "/var/root", nil, places{"/var/db/vmfs", "/var/run/vmfs/vmfs.sock"}},
	} {
		got := placesOf(c.goos, c.root, c.home, func(key string) string { return c.env[key] })
		assert.Equal(t, c.wants, got, "%+v", c)
	}
	state, err := defaultState()
	require.NoError(t, err)
	assert.Equal(t, defaultPlaces(), places{state, defaultSocket()})
}
