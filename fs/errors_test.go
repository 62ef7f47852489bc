package fs

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/hugelgupf/p9/linux"
	"github.com/hugelgupf/p9/p9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestBadInput writes every row of the tables in docs/errors.md to a server.
func TestBadInput(t *testing.T) {
	rows := badInput(t)
	require.Greater(t, len(rows), 40)
	root := client(t, New(newHost(t), Options{}))
	for i, r := range rows {
		t.Run(r.state+" "+r.file+" "+r.written, func(t *testing.T) {
			require.NoError(t, mkdir(t, root, "web"))
			defer func() { require.NoError(t, root.UnlinkAt("web", 0x200)) }()
			switch r.state {
			case "created":
			case "running", "paused":
				mustWrite(t, root, "web/ctl", "start")
				defer func() { mustWrite(t, root, "web/ctl", "kill") }()
				if r.state == "paused" {
					mustWrite(t, root, "web/ctl", "pause")
				}
			default:
				t.Fatalf("row %d: no state %q", i, r.state)
			}
			config, state, memory := cat(t, root, "web/config"), cat(t, root, "web/state"), cat(t, root, "web/memory")
			err := write(t, root, "web/"+r.file, r.written)
			var errno linux.Errno
			require.True(t, errors.As(err, &errno), "%v", err)
			assert.Equal(t, r.errno, errnoNames[errno])
			assert.Contains(t, cat(t, root, "web/error"), r.text)
			assert.Equal(t, config, cat(t, root, "web/config"))
			assert.Equal(t, state, cat(t, root, "web/state"))
			assert.Equal(t, memory, cat(t, root, "web/memory"))
		})
	}
}

type badRow struct{ state, file, written, errno, text string }

// badInput reads the five-column tables.
func badInput(t *testing.T) (rows []badRow) {
	for _, cells := range tableRows(t, 5) {
		rows = append(rows, badRow{cells[0], cells[1], strings.Trim(cells[2], "`"), cells[3], cells[4]})
	}
	return rows
}

// tableRows reads the rows of the document's tables of so many columns.
func tableRows(t *testing.T, columns int) (rows [][]string) {
	doc, err := os.ReadFile("../docs/errors.md")
	require.NoError(t, err)
	for _, line := range strings.Split(string(doc), "\n") {
		cells := strings.Split(strings.Trim(line, "|"), "|")
		if !strings.HasPrefix(line, "|") || len(cells) != columns {
			continue
		}
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		if cells[0] != "state" && !strings.HasPrefix(cells[0], "---") {
			rows = append(rows, cells)
		}
	}
	return rows
}

var errnoNames = map[linux.Errno]string{
	linux.EINVAL: "EINVAL", linux.EBUSY: "EBUSY", linux.ENOENT: "ENOENT", linux.EACCES: "EACCES", linux.EEXIST: "EEXIST",
	linux.EIO: "EIO", linux.ETIMEDOUT: "ETIMEDOUT", linux.EINTR: "EINTR", linux.ENXIO: "ENXIO", linux.EPERM: "EPERM",
	linux.EOPNOTSUPP: "EOPNOTSUPP", linux.EISDIR: "EISDIR", linux.ECONNREFUSED: "ECONNREFUSED",
	linux.ENOTCONN: "ENOTCONN",
}

// TestOtherErrors does what every row of the last table of docs/errors.md says,
// and some that are not worth a row.
func TestOtherErrors(t *testing.T) {
	var root p9.File
	sub := func(dir string) p9.File { return sub2(t, root, dir) }
	creat := func(dir p9.File, name string) error {
		_, _, _, err := dir.Create(name, p9.WriteOnly, 0o644, p9.NoUID, p9.NoGID)
		return err
	}
	opened := func(path string, mode p9.OpenFlags) error {
		_, err := open(t, root, path, mode)
		return err
	}
	vsock := func(path string) error { return opened("web/vsock/"+path, p9.ReadWrite) }
	talk := func(verbs ...string) (err error) {
		c, name := converse(t, root)
		for _, verb := range verbs {
			if verb == "data" {
				err = opened(name+"/data", p9.ReadWrite)
			} else {
				_, err = c.WriteAt([]byte(verb), 0)
			}
		}
		return err
	}
	const rmdir = 0x200
	rows := map[string][]func() error{
		"open `web/state` for writing": {func() error { return opened("web/state", p9.WriteOnly) }},
		"open `web/nothing`":           {func() error { return opened("web/nothing", p9.ReadOnly) }},
		"walk to `nosuch`":             {func() error { return opened("nosuch", p9.ReadOnly) }},
		"create `web/new`":             {func() error { return creat(sub("web"), "new") }},
		"mkdir `web`":                  {func() error { return mkdir(t, root, "web") }},
		"mkdir `ctl`":                  {func() error { return mkdir(t, root, "ctl") }},
		"mkdir `bad name`":             {func() error { return mkdir(t, root, "bad name") }},
		"mkdir `web/sub`":              {func() error { return mkdir(t, sub("web"), "sub") }},
		"mkdir `web/snapshots/one`":    {func() error { return mkdir(t, sub2(t, root, "web", "snapshots"), "one") }},
		"mkdir `web/snapshots/-x`":     {func() error { return mkdir(t, sub2(t, root, "web", "snapshots"), "-x") }},
		"mkdir `web/snapshots/one` a second time": {func() error {
			require.NoError(t, mkdir(t, sub2(t, root, "web", "snapshots"), "one"))
			return mkdir(t, sub2(t, root, "web", "snapshots"), "one")
		}},
		"rmdir `web/snapshots/nosuch`": {func() error { return sub2(t, root, "web", "snapshots").UnlinkAt("nosuch", rmdir) }},
		"rm `web/snapshots/one`":       {func() error { return sub2(t, root, "web", "snapshots").UnlinkAt("one", 0) }},
		"rmdir `web`":                  {func() error { return root.UnlinkAt("web", rmdir) }},
		"rm `web`":                     {func() error { return root.UnlinkAt("web", 0) }},
		"rm `web/ctl`":                 {func() error { return sub("web").UnlinkAt("ctl", 0) }},
		"rmdir `backends`":             {func() error { return root.UnlinkAt("backends", rmdir) }},
		"rename `web`":                 {func() error { return root.RenameAt("web", root, "db") }},
		"write `console`":              {func() error { return write(t, root, "web/console", "x") }},
		"open `web/vsock/7` or `web/vsock/listen/7`":            {func() error { return vsock("7") }, func() error { return vsock("listen/7") }},
		"open `web/vsock/7` without `vsock.cid`":                {func() error { return vsock("7") }},
		"open `web/vsock/4242`, where nothing listens":          {func() error { return vsock("4242") }},
		"open `web/vsock/c0/data` before `connect`":             {func() error { return talk("data") }},
		"write `connect 7` to `web/vsock/c0/ctl` a second time": {func() error { return talk("connect 7", "connect 7") }},
		"write `connect 0` to `web/vsock/c0/ctl`":               {func() error { return talk("connect 0") }},
		"open `web/vsock/0`, `4294967295`, `007` or `web`": {
			func() error { return vsock("0") }, func() error { return vsock("4294967295") },
			func() error { return vsock("007") }, func() error { return vsock("web") },
		},
	}
	for _, r := range otherRows(t) {
		if r.state != "created" && r.state != "running" {
			continue // of streams that end: TestVsockEnds has it
		}
		t.Run(r.state+" "+r.operation, func(t *testing.T) {
			ops := rows[r.operation]
			require.NotEmpty(t, ops, "a row that no test knows")
			root = client(t, New(newHost(t), Options{}))
			require.NoError(t, mkdir(t, root, "web"))
			if r.state == "running" {
				if !strings.Contains(r.operation, "without") {
					mustWrite(t, root, "web/config", "vsock.cid=3")
				}
				mustWrite(t, root, "web/ctl", "start")
			}
			for _, op := range ops {
				err := op()
				assert.Equal(t, r.errno, errnoNames[errnoFrom(err)], "%v", err)
			}
		})
	}

	root = client(t, New(newHost(t), Options{}))
	require.NoError(t, mkdir(t, root, "web"))
	for name, c := range map[string]struct {
		err  error
		want linux.Errno
	}{
		"walk below a file":   {opened("web/ctl/x", p9.ReadOnly), linux.ENOTDIR},
		"rmdir nosuch":        {root.UnlinkAt("nosuch", rmdir), linux.ENOENT},
		"symlink":             {func() error { _, err := root.Symlink("x", "y", p9.NoUID, p9.NoGID); return err }(), linux.EPERM},
		"server's ctl":        {write(t, root, "ctl", "frob"), linux.EINVAL},
		"delete of none":      {write(t, root, "ctl", "delete nosuch"), linux.ENOENT},
		"chmod of a file":     {sub2(t, root, "web", "ctl").SetAttr(p9.SetAttrMask{Permissions: true}, p9.SetAttr{Permissions: 0o600}), linux.EPERM},
		"open a directory rw": {opened("web", p9.ReadWrite), linux.EISDIR},
	} {
		assert.Equal(t, c.want, linux.ExtractErrno(c.err), "%s: %v", name, c.err)
	}
}

type otherRow struct{ state, operation, errno string }

// otherRows reads the three-column table.
func otherRows(t *testing.T) (rows []otherRow) {
	for _, cells := range tableRows(t, 3) {
		rows = append(rows, otherRow{cells[0], cells[1], cells[2]})
	}
	require.Greater(t, len(rows), 20)
	return rows
}

func sub2(t *testing.T, root p9.File, path ...string) p9.File {
	t.Helper()
	_, f, err := root.Walk(path)
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}
