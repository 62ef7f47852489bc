package ninep

import (
	"io"
	"testing"

	"github.com/hugelgupf/p9/linux"
	"github.com/hugelgupf/p9/p9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func p9Root(t testing.TB, ts *testServer) p9.File {
	t.Helper()
	c, err := p9.NewClient(ts.dial())
	require.NoError(t, err)
	root, err := c.Attach("/")
	require.NoError(t, err)
	return root
}

// TestP9Client goes through everything that the hugelgupf client can do.
func TestP9Client(t *testing.T) {
	fs := basicTree()
	ts := serve(t, fs)
	root := p9Root(t, ts)

	walk := func(names ...string) p9.File {
		t.Helper()
		_, f, err := root.Walk(names)
		require.NoError(t, err)
		return f
	}
	read := func(f p9.File) string {
		t.Helper()
		b, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<20))
		require.NoError(t, err)
		return string(b)
	}

	deep := walk("dir", "sub", "deep")
	_, _, err := deep.Open(p9.ReadOnly)
	require.NoError(t, err)
	assert.Equal(t, "down here\n", read(deep))
	require.NoError(t, deep.Close())

	_, _, err = root.Walk([]string{"dir", "nothing"})
	assert.ErrorIs(t, err, linux.ENOENT)

	qids, f, valid, attr, err := root.WalkGetAttr([]string{"a"})
	require.NoError(t, err)
	assert.Len(t, qids, 1)
	assert.True(t, valid.Size)
	assert.EqualValues(t, 6, attr.Size)
	require.NoError(t, f.SetAttr(p9.SetAttrMask{Size: true, Permissions: true}, p9.SetAttr{Size: 3, Permissions: 0o600}))
	_, _, attr, err = f.GetAttr(p9.AttrMaskAll)
	require.NoError(t, err)
	assert.EqualValues(t, 3, attr.Size)
	assert.Equal(t, p9.ModeRegular|0o600, attr.Mode)

	dir := walk("dir")
	made, _, _, err := dir.Create("made", p9.ReadWrite, 0o640, 7, 8)
	require.NoError(t, err)
	n, err := made.WriteAt([]byte("hello"), 0)
	require.NoError(t, err)
	assert.Equal(t, 5, n)
	assert.Equal(t, "hello", read(made))
	require.NoError(t, made.FSync())
	require.NoError(t, made.Close())
	_, _, attr, err = walk("dir", "made").GetAttr(p9.AttrMaskAll)
	require.NoError(t, err)
	assert.Equal(t, p9.UID(7), attr.UID)
	assert.Equal(t, p9.GID(8), attr.GID)

	dir = walk("dir")
	_, err = dir.Mkdir("new", 0o755, p9.NoUID, p9.NoGID)
	require.NoError(t, err)
	_, err = dir.Mkdir("new", 0o755, p9.NoUID, p9.NoGID)
	assert.ErrorIs(t, err, linux.EEXIST)
	_, err = dir.Symlink("../a", "sym", p9.NoUID, p9.NoGID)
	require.NoError(t, err)
	target, err := walk("dir", "sym").Readlink()
	require.NoError(t, err)
	assert.Equal(t, "../a", target)
	_, err = dir.Mknod("pipe", p9.ModeNamedPipe|0o600, 0, 0, p9.NoUID, p9.NoGID)
	require.NoError(t, err)
	require.NoError(t, dir.Link(walk("a"), "hard"))
	require.NoError(t, dir.RenameAt("hard", walk("empty"), "harder"))
	walk("empty", "harder")
	require.NoError(t, walk("b").Rename(walk("empty"), "moved"))
	walk("empty", "moved")
	require.NoError(t, dir.UnlinkAt("pipe", 0))
	assert.ErrorIs(t, dir.UnlinkAt("pipe", 0), linux.ENOENT)

	st, err := root.StatFS()
	require.NoError(t, err)
	assert.EqualValues(t, 255, st.NameLength)

	d := walk("dir")
	_, _, err = d.Open(p9.ReadOnly)
	require.NoError(t, err)
	ents, err := d.Readdir(0, 4096)
	require.NoError(t, err)
	var names []string
	for _, e := range ents {
		names = append(names, e.Name)
	}
	assert.Equal(t, []string{"made", "new", "sub", "sym", "x"}, names)
	ents, err = d.Readdir(ents[1].Offset, 4096)
	require.NoError(t, err)
	assert.Equal(t, "sub", ents[0].Name)

	_, _, err = walk("boom").Open(p9.ReadOnly)
	assert.ErrorIs(t, err, linux.EIO)
	assert.Contains(t, ts.log.String(), "file panicked")

	type remover interface{ Remove() error }
	require.NoError(t, walk("empty", "moved").(remover).Remove())
	_, _, err = root.Walk([]string{"empty", "moved"})
	assert.ErrorIs(t, err, linux.ENOENT)
}
