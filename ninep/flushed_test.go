package ninep

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/hugelgupf/p9/p9"
	"github.com/stretchr/testify/assert"

	"vmfs/ninep/wire/wiretest"
)

// stuckTree is a tree each of whose methods that can block does, until its context
// ends, once it is told to.
type stuckTree struct {
	*memFS
	stuck   atomic.Bool
	waiting chan string // which method
}

func (t *stuckTree) wait(ctx context.Context, method string) error {
	if !t.stuck.Load() {
		return nil
	}
	t.waiting <- method
	<-ctx.Done()
	return ctx.Err()
}

func (t *stuckTree) AttachUser(ctx context.Context, _ Caller, _ string, _ uint32, _ string) (p9.File, error) {
	if err := t.wait(ctx, "attach"); err != nil {
		return nil, err
	}
	f, err := t.Attach()
	return stuckFile{f, t}, err
}

type stuckFile struct {
	p9.File
	t *stuckTree
}

func (f stuckFile) Walk(names []string) ([]p9.QID, p9.File, error) {
	qids, to, err := f.File.Walk(names)
	return qids, stuckFile{to, f.t}, err
}

func (f stuckFile) OpenContext(ctx context.Context, mode p9.OpenFlags) (p9.QID, uint32, error) {
	if err := f.t.wait(ctx, "open"); err != nil {
		return p9.QID{}, 0, err
	}
	return f.Open(mode)
}

func (f stuckFile) CloseContext(ctx context.Context) error {
	err := f.t.wait(ctx, "close")
	_ = f.Close()
	return err
}

func (f stuckFile) ReadContext(ctx context.Context, _ []byte, _ int64) (int, error) {
	return 0, f.t.wait(ctx, "read")
}

func (f stuckFile) WriteContext(ctx context.Context, p []byte, _ int64) (int, error) {
	return len(p), f.t.wait(ctx, "write")
}

func (f stuckFile) FSyncContext(ctx context.Context) error { return f.t.wait(ctx, "fsync") }

func (f stuckFile) CreateContext(ctx context.Context, _ string, _ p9.OpenFlags, _ p9.FileMode, _ p9.UID, _ p9.GID) (p9.File, p9.QID, uint32, error) {
	return nil, p9.QID{}, 0, f.t.wait(ctx, "create")
}

func (f stuckFile) MkdirContext(ctx context.Context, _ string, _ p9.FileMode, _ p9.UID, _ p9.GID) (p9.QID, error) {
	return p9.QID{}, f.t.wait(ctx, "mkdir")
}

func (f stuckFile) UnlinkAtContext(ctx context.Context, _ string, _ uint32) error {
	return f.t.wait(ctx, "unlink")
}

func (f stuckFile) RenameAtContext(ctx context.Context, _ string, _ p9.File, _ string) error {
	return f.t.wait(ctx, "rename")
}

func (f stuckFile) SetAttrContext(ctx context.Context, _ p9.SetAttrMask, _ p9.SetAttr) error {
	return f.t.wait(ctx, "setattr")
}

func (f stuckFile) LockContext(ctx context.Context, _ int, _ p9.LockType, _ p9.LockFlags, _, _ uint64, _ string) (p9.LockStatus, error) {
	return p9.LockStatusError, f.t.wait(ctx, "lock")
}

// TestEveryRequestIsFlushed: whatever a request waits for, a Tflush ends it at once, and
// the session goes on.
func TestEveryRequestIsFlushed(t *testing.T) {
	tree := &stuckTree{memFS: basicTree(), waiting: make(chan string)}
	ts := serve(t, tree)
	c := ts.raw("9P2000.L").attach()
	c.rpc("Twalk", "Rwalk", "fid", "0", "newfid", "1", "names", "a") // closed
	for _, fid := range []string{"2", "3", "4"} {                    // open
		c.rpc("Twalk", "Rwalk", "fid", "0", "newfid", fid, "names", "a")
		c.rpc("Tlopen", "Rlopen", "fid", fid, "flags", "2")
	}
	tree.stuck.Store(true)
	for _, r := range []struct {
		waits, name string
		args        []string
	}{
		{"attach", "Tattach", []string{"fid", "9", "afid", "NOFID"}},
		{"open", "Tlopen", []string{"fid", "1"}},
		{"open", "Tlcreate", []string{"fid", "0", "name", "a", "flags", "2"}},
		{"create", "Tlcreate", []string{"fid", "0", "name", "new", "flags", "2"}},
		{"mkdir", "Tmkdir", []string{"dfid", "0", "name", "new"}},
		{"unlink", "Tunlinkat", []string{"dfid", "0", "name", "a"}},
		{"rename", "Trenameat", []string{"olddfid", "0", "oldname", "a", "newdfid", "0", "newname", "b"}},
		{"rename", "Trename", []string{"fid", "1", "dfid", "0", "name", "b"}},
		{"setattr", "Tsetattr", []string{"fid", "1", "valid", "1", "mode", "0600"}},
		{"read", "Tread", []string{"fid", "2", "count", "10"}},
		{"write", "Twrite", []string{"fid", "2", "data", "x"}},
		{"fsync", "Tfsync", []string{"fid", "2"}},
		{"lock", "Tlock", []string{"fid", "2"}},
		{"close", "Tclunk", []string{"fid", "3"}},
		{"unlink", "Tremove", []string{"fid", "1"}},
	} {
		c.send(r.name, 5, r.args...)
		assert.Equal(t, r.waits, take(t, r.name, tree.waiting))
		c.send("Tflush", 6, "oldtag", "5")
		c.want("Rlerror", 5, "ecode", "EINTR")
		c.want("Rflush", 6)
	}
	tree.stuck.Store(false)
	vals := c.rpc("Tgetattr", "Rgetattr", "fid", "4", "mask", "1")
	assert.EqualValues(t, 0o100644, wiretest.Number(vals["mode"]))
	c.Close()
}
