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
func badInput(t *testing.T) []badRow {
	doc, err := os.ReadFile("../docs/errors.md")
	require.NoError(t, err)
	var rows []badRow
	for _, line := range strings.Split(string(doc), "\n") {
		cells := strings.Split(strings.Trim(line, "|"), "|")
		if !strings.HasPrefix(line, "|") || len(cells) != 5 {
			continue
		}
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		if cells[0] == "state" || strings.HasPrefix(cells[0], "---") {
			continue
		}
		rows = append(rows, badRow{cells[0], cells[1], strings.Trim(cells[2], "`"), cells[3], cells[4]})
	}
	return rows
}

var errnoNames = map[linux.Errno]string{
	linux.EINVAL: "EINVAL", linux.EBUSY: "EBUSY", linux.ENOENT: "ENOENT", linux.EACCES: "EACCES", linux.EEXIST: "EEXIST",
	linux.EIO: "EIO", linux.ETIMEDOUT: "ETIMEDOUT", linux.EINTR: "EINTR", linux.ENXIO: "ENXIO", linux.EPERM: "EPERM",
	linux.EOPNOTSUPP: "EOPNOTSUPP", linux.EISDIR: "EISDIR", linux.ECONNREFUSED: "ECONNREFUSED",
}

// TestOtherErrors holds the last table of docs/errors.md.
func TestOtherErrors(t *testing.T) {
	root := client(t, New(newHost(t), Options{}))
	require.NoError(t, mkdir(t, root, "web"))
	sub := func(dir string) p9.File {
		_, f, err := root.Walk([]string{dir})
		require.NoError(t, err)
		return f
	}
	creat := func(dir p9.File, name string) error {
		_, _, _, err := dir.Create(name, p9.WriteOnly, 0o644, p9.NoUID, p9.NoGID)
		return err
	}
	opened := func(path string, mode p9.OpenFlags) error {
		_, err := open(t, root, path, mode)
		return err
	}
	for name, c := range map[string]struct {
		err  error
		want linux.Errno
	}{
		"open state for writing": {opened("web/state", p9.WriteOnly), linux.EACCES},
		"open nothing":           {opened("web/nothing", p9.ReadOnly), linux.ENOENT},
		"walk to nosuch":         {opened("nosuch", p9.ReadOnly), linux.ENOENT},
		"walk below a file":      {opened("web/ctl/x", p9.ReadOnly), linux.ENOTDIR},
		"create":                 {creat(sub("web"), "new"), linux.EPERM},
		"mkdir web":              {mkdir(t, root, "web"), linux.EEXIST},
		"mkdir ctl":              {mkdir(t, root, "ctl"), linux.EEXIST},
		"mkdir bad name":         {mkdir(t, root, "bad name"), linux.EINVAL},
		"mkdir web/sub":          {mkdir(t, sub("web"), "sub"), linux.EPERM},
		"rm web":                 {root.UnlinkAt("web", 0), linux.EISDIR},
		"rmdir nosuch":           {root.UnlinkAt("nosuch", 0x200), linux.ENOENT},
		"rm web/ctl":             {sub("web").UnlinkAt("ctl", 0), linux.EPERM},
		"rmdir backends":         {root.UnlinkAt("backends", 0x200), linux.EPERM},
		"rename web":             {root.RenameAt("web", root, "db"), linux.EPERM},
		"clone before reading":   {write(t, root, "clone", "start"), linux.EINVAL},
		"console of none":        {write(t, root, "web/console", "x"), linux.ENXIO},
		"symlink":                {func() error { _, err := root.Symlink("x", "y", p9.NoUID, p9.NoGID); return err }(), linux.EPERM},
		"server's ctl":           {write(t, root, "ctl", "frob"), linux.EINVAL},
		"delete of none":         {write(t, root, "ctl", "delete nosuch"), linux.ENOENT},
		"chmod of a file":        {sub2(t, root, "web", "ctl").SetAttr(p9.SetAttrMask{Permissions: true}, p9.SetAttr{Permissions: 0o600}), linux.EPERM},
		"open a directory rw":    {opened("web", p9.ReadWrite), linux.EISDIR},
	} {
		assert.Equal(t, c.want, linux.ExtractErrno(c.err), "%s: %v", name, c.err)
	}
	mustWrite(t, root, "web/ctl", "start")
	assert.Equal(t, linux.EBUSY, linux.ExtractErrno(root.UnlinkAt("web", 0x200)))
	mustWrite(t, root, "web/ctl", "kill")
}

func sub2(t *testing.T, root p9.File, path ...string) p9.File {
	t.Helper()
	_, f, err := root.Walk(path)
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}
