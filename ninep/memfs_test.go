package ninep

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sort"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/hugelgupf/p9/fsimpl/templatefs"
	"github.com/hugelgupf/p9/linux"
	"github.com/hugelgupf/p9/p9"
)

// memFS is a tree in memory. It has no lock of its own, so that the race
// detector sees whether the server keeps what p9.File promises.
type memFS struct {
	root  *memNode
	paths atomic.Uint64
	open  atomic.Int64 // Files not closed
}

type memNode struct {
	fs       *memFS
	path     uint64
	version  atomic.Uint32
	mode     p9.FileMode
	uid      p9.UID
	gid      p9.GID
	atime    memTime
	mtime    memTime
	mu       sync.Mutex // guards data: plain reads and writes of a file may race
	data     []byte
	children map[string]*memNode
	target   string
	rdev     p9.Dev
	xattrs   map[string]string
	stream   *stream // blocking, if not nil
	panics   bool
	slow     bool // namespace methods take a context
	fixed    bool // nothing in it is ever removed
	lock     *memLock
}

// stream is what a blocking file reads from and writes to.
type stream struct {
	bytes, files int // what it costs to have it open

	in      chan string // records to read
	out     chan string // what was written; unbuffered
	waiting chan struct{}
	closed  chan string
	openErr chan error    // if not nil, opening waits for it
	hold    chan struct{} // if not nil, a cancelled request waits for it
	parts   bool          // whether writes may come in parts
}

// wait says that a request has come to block, to tests that ask.
func (st *stream) wait() {
	select {
	case st.waiting <- struct{}{}:
	default:
	}
}

func newMemFS() *memFS {
	fs := new(memFS)
	fs.root = fs.node(p9.ModeDirectory | 0o755)
	return fs
}

func (fs *memFS) node(mode p9.FileMode) *memNode {
	n := &memNode{fs: fs, path: fs.paths.Add(1), mode: mode}
	n.version.Store(1)
	if mode.IsDir() {
		n.children = make(map[string]*memNode)
	}
	return n
}

func (fs *memFS) add(path string, n *memNode) *memNode {
	dir := fs.root
	elems := strings.Split(path, "/")
	for _, name := range elems[:len(elems)-1] {
		next := dir.children[name]
		if next == nil {
			next = fs.node(p9.ModeDirectory | 0o755)
			dir.children[name] = next
		}
		dir = next
	}
	dir.children[elems[len(elems)-1]] = n
	return n
}

func (fs *memFS) file(path, data string) *memNode {
	n := fs.add(path, fs.node(p9.ModeRegular|0o644))
	n.data = []byte(data)
	return n
}

func (fs *memFS) streamFile(path string) *stream {
	n := fs.add(path, fs.node(p9.ModeRegular|0o644))
	n.stream = &stream{in: make(chan string), out: make(chan string), waiting: make(chan struct{}, 1000), closed: make(chan string, 100)}
	return n.stream
}

func (fs *memFS) Attach() (p9.File, error) { return fs.handle(fs.root), nil }

type memTime struct{ sec, nsec uint64 }

// memNow is what this file system's clock always shows.
const memNow = 1700000000

func memTimeOf(given bool, sec, nsec uint64) memTime {
	if !given {
		return memTime{sec: memNow}
	}
	return memTime{sec, nsec}
}

// memFile is a handle. The kinds of blocking methods are types of their own.
type memFile struct {
	templatefs.NotLockable
	p9.DefaultWalkGetAttr
	n      *memNode
	opened atomic.Bool
	shut   atomic.Bool
	names  []string // for Renamed: where it last was
}

func (fs *memFS) handle(n *memNode) p9.File {
	fs.open.Add(1)
	f := &memFile{n: n}
	switch {
	case n.stream != nil && n.stream.openErr != nil:
		return &memOpenStream{memStream{memFile: f}}
	case n.stream != nil:
		return &memStream{memFile: f}
	case n.slow:
		return &memSlowDir{f}
	case n.fixed:
		return &memFixedDir{f}
	case n.lock != nil:
		return &memLockFile{f}
	}
	return f
}

func (f *memStream) OpenCost(p9.OpenFlags) (bytes, files int) {
	return f.n.stream.bytes, f.n.stream.files
}

func (n *memNode) qid() p9.QID {
	return p9.QID{Type: n.mode.QIDType(), Version: n.version.Load(), Path: n.path}
}

func (f *memFile) Walk(names []string) ([]p9.QID, p9.File, error) {
	n := f.n
	var qids []p9.QID
	for _, name := range names {
		if n = n.children[name]; n == nil {
			return nil, nil, fmt.Errorf("no file %q here: %w", name, linux.ENOENT)
		}
		qids = append(qids, n.qid())
	}
	return qids, f.n.fs.handle(n), nil
}

func (f *memFile) StatFS() (p9.FSStat, error) {
	return p9.FSStat{Type: 0x01021997, BlockSize: 4096, Blocks: 10, BlocksFree: 5, BlocksAvailable: 4, Files: 3, FilesFree: 2, FSID: 7, NameLength: 255}, nil
}

func (f *memFile) FSync() error { return nil }

func (f *memFile) GetAttr(req p9.AttrMask) (p9.QID, p9.AttrMask, p9.Attr, error) {
	n := f.n
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.qid(), req, p9.Attr{
		Mode: n.mode, UID: n.uid, GID: n.gid, NLink: 1, RDev: n.rdev, Size: uint64(len(n.data)), BlockSize: 4096,
		ATimeSeconds: n.atime.sec, ATimeNanoSeconds: n.atime.nsec, MTimeSeconds: n.mtime.sec, MTimeNanoSeconds: n.mtime.nsec,
	}, nil
}

func (f *memFile) SetAttr(valid p9.SetAttrMask, attr p9.SetAttr) error {
	n := f.n
	if valid.Size && attr.Size > 1<<20 {
		return linux.EFBIG
	}
	if valid.Permissions {
		n.mode = n.mode&^0o7777 | attr.Permissions
	}
	if valid.UID {
		n.uid = attr.UID
	}
	if valid.GID {
		n.gid = attr.GID
	}
	if valid.Size {
		n.data = append(n.data[:min(attr.Size, uint64(len(n.data)))], make([]byte, max(0, int(attr.Size)-len(n.data)))...)
	}
	if valid.ATime {
		n.atime = memTimeOf(valid.ATimeNotSystemTime, attr.ATimeSeconds, attr.ATimeNanoSeconds)
	}
	if valid.MTime {
		n.mtime = memTimeOf(valid.MTimeNotSystemTime, attr.MTimeSeconds, attr.MTimeNanoSeconds)
	}
	if valid == (p9.SetAttrMask{}) {
		return nil
	}
	n.version.Add(1)
	return nil
}

func (f *memFile) Close() error {
	if f.shut.Swap(true) {
		panic("closed twice")
	}
	f.n.fs.open.Add(-1)
	return nil
}

func (f *memFile) Open(mode p9.OpenFlags) (p9.QID, uint32, error) {
	if f.opened.Swap(true) {
		panic("opened twice")
	}
	if f.n.panics {
		panic("as told")
	}
	if mode&oTrunc != 0 && f.n.stream == nil {
		f.n.mu.Lock()
		f.n.data = nil
		f.n.mu.Unlock()
		f.n.version.Add(1)
	}
	return f.n.qid(), 0, nil
}

func (f *memFile) ReadAt(p []byte, off int64) (int, error) {
	f.n.mu.Lock()
	defer f.n.mu.Unlock()
	if off >= int64(len(f.n.data)) {
		return 0, io.EOF
	}
	return copy(p, f.n.data[off:]), nil
}

func (f *memFile) WriteAt(p []byte, off int64) (int, error) {
	n := f.n
	n.mu.Lock()
	defer n.mu.Unlock()
	if off > 1<<20 {
		return 0, linux.EFBIG
	}
	if need := int(off) + len(p); need > len(n.data) {
		n.data = append(n.data, make([]byte, need-len(n.data))...)
	}
	n.version.Add(1)
	return copy(n.data[off:], p), nil
}

func (f *memFile) SetXattr(attr string, data []byte, _ p9.XattrFlags) error {
	if f.n.xattrs == nil {
		f.n.xattrs = make(map[string]string)
	}
	f.n.xattrs[attr] = string(data)
	return nil
}

func (f *memFile) GetXattr(attr string) ([]byte, error) {
	if v, ok := f.n.xattrs[attr]; ok {
		return []byte(v), nil
	}
	return nil, linux.ENODATA
}

func (f *memFile) ListXattrs() ([]string, error) {
	var names []string
	for name := range f.n.xattrs {
		names = append(names, name)
	}
	sort.Strings(names)
	return names, nil
}

func (f *memFile) RemoveXattr(attr string) error {
	delete(f.n.xattrs, attr)
	return nil
}

func (f *memFile) newChild(name string, mode p9.FileMode, uid p9.UID, gid p9.GID) (*memNode, error) {
	if f.n.children[name] != nil {
		return nil, linux.EEXIST
	}
	n := f.n.fs.node(mode)
	if uid.Ok() {
		n.uid = uid
	}
	if gid.Ok() {
		n.gid = gid
	}
	f.n.children[name] = n
	f.n.version.Add(1)
	return n, nil
}

func (f *memFile) Create(name string, _ p9.OpenFlags, perm p9.FileMode, uid p9.UID, gid p9.GID) (p9.File, p9.QID, uint32, error) {
	n, err := f.newChild(name, p9.ModeRegular|perm, uid, gid)
	if err != nil {
		return nil, p9.QID{}, 0, err
	}
	h := f.n.fs.handle(n)
	h.(*memFile).opened.Store(true)
	return h, n.qid(), 0, nil
}

func (f *memFile) Mkdir(name string, perm p9.FileMode, uid p9.UID, gid p9.GID) (p9.QID, error) {
	n, err := f.newChild(name, p9.ModeDirectory|perm, uid, gid)
	if err != nil {
		return p9.QID{}, err
	}
	return n.qid(), nil
}

func (f *memFile) Symlink(oldName, newName string, uid p9.UID, gid p9.GID) (p9.QID, error) {
	n, err := f.newChild(newName, p9.ModeSymlink|0o777, uid, gid)
	if err != nil {
		return p9.QID{}, err
	}
	n.target = oldName
	return n.qid(), nil
}

func (f *memFile) Link(target p9.File, newName string) error {
	if f.n.children[newName] != nil {
		return linux.EEXIST
	}
	f.n.children[newName] = target.(*memFile).n
	return nil
}

func (f *memFile) Mknod(name string, mode p9.FileMode, major, minor uint32, uid p9.UID, gid p9.GID) (p9.QID, error) {
	n, err := f.newChild(name, mode, uid, gid)
	if err != nil {
		return p9.QID{}, err
	}
	n.rdev = p9.Dev(major<<8 | minor)
	return n.qid(), nil
}

func (f *memFile) Rename(p9.File, string) error { return linux.ENOSYS }

func (f *memFile) RenameAt(oldName string, newDir p9.File, newName string) error {
	n := f.n.children[oldName]
	if n == nil {
		return linux.ENOENT
	}
	to := memOf(newDir)
	delete(f.n.children, oldName)
	to.n.children[newName] = n
	return nil
}

func memOf(f p9.File) *memFile {
	switch f := f.(type) {
	case *memFile:
		return f
	case *memSlowDir:
		return f.memFile
	case *memStream:
		return f.memFile
	}
	panic("not a memFile")
}

func (f *memFile) UnlinkAt(name string, _ uint32) error {
	n := f.n.children[name]
	switch {
	case n == nil:
		return linux.ENOENT
	case len(n.children) > 0:
		return linux.ENOTEMPTY
	}
	delete(f.n.children, name)
	f.n.version.Add(1)
	return nil
}

func (f *memFile) Readdir(offset uint64, count uint32) (p9.Dirents, error) {
	names := make([]string, 0, len(f.n.children))
	for name := range f.n.children {
		names = append(names, name)
	}
	slices.Sort(names)
	var ents p9.Dirents
	for i, name := range names {
		if uint64(i) >= offset {
			q := f.n.children[name].qid()
			ents = append(ents, p9.Dirent{QID: q, Type: q.Type, Offset: uint64(i) + 1, Name: name})
		}
	}
	return ents, nil
}

func (f *memFile) Readlink() (string, error) { return f.n.target, nil }

func (f *memFile) Renamed(newDir p9.File, newName string) {
	f.names = append(f.names, newName)
}

// memStream blocks in reads and writes, and its close has something to say.
type memStream struct {
	*memFile
	rest string
}

var (
	_ ReaderContext = (*memStream)(nil)
	_ WriterContext = (*memStream)(nil)
	_ CloserContext = (*memStream)(nil)

	_ AbandonerContext = (*memStream)(nil)
)

func (f *memStream) ReadContext(ctx context.Context, p []byte, _ int64) (int, error) {
	st := f.n.stream
	if f.rest == "" {
		st.wait()
		select {
		case rec, ok := <-st.in:
			if !ok {
				return 0, io.EOF
			}
			f.rest = rec
		case <-ctx.Done():
			if st.hold != nil {
				<-st.hold
			}
			return 0, ctx.Err()
		}
	}
	n := copy(p, f.rest)
	f.rest = f.rest[n:]
	return n, nil
}

func (f *memStream) WritesInParts() bool { return f.n.stream.parts }

func (f *memStream) WriteContext(ctx context.Context, p []byte, _ int64) (int, error) {
	st := f.n.stream
	st.wait()
	select {
	case st.out <- string(p):
		return len(p), nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

func (f *memStream) CloseContext(context.Context) error { return f.close("closed") }

func (f *memStream) AbandonContext(context.Context) error { return f.close("abandoned") }

func (f *memStream) close(how string) error {
	select {
	case f.n.stream.closed <- how:
	default:
	}
	return f.memFile.Close()
}

// memOpenStream blocks in open as well.
type memOpenStream struct{ memStream }

func (f *memOpenStream) OpenContext(ctx context.Context, mode p9.OpenFlags) (p9.QID, uint32, error) {
	st := f.n.stream
	st.wait()
	select {
	case err := <-st.openErr:
		if err != nil {
			return p9.QID{}, 0, err
		}
		return f.Open(mode)
	case <-ctx.Done():
		return p9.QID{}, 0, ctx.Err()
	}
}

// memFixedDir is a directory that nothing is removed from.
type memFixedDir struct{ *memFile }

var _ RemoveChecker = (*memFixedDir)(nil)

func (d *memFixedDir) CanRemove(string) error        { return linux.EPERM }
func (d *memFixedDir) UnlinkAt(string, uint32) error { return linux.EPERM }

// memLock is the one lock of a file that can be locked, as a whole.
type memLock struct {
	mu            sync.Mutex // guards what follows
	held          bool
	typ           p9.LockType
	start, length uint64
	pid           int
	client        string
}

type memLockFile struct{ *memFile }

var _ LockGetter = (*memLockFile)(nil)

func (f *memLockFile) Lock(pid int, typ p9.LockType, _ p9.LockFlags, start, length uint64, client string) (p9.LockStatus, error) {
	l := f.n.lock
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case typ > p9.Unlock:
		return p9.LockStatusError, nil
	case l.held && (l.pid != pid || l.client != client):
		return p9.LockStatusBlocked, nil
	}
	l.held, l.typ, l.start, l.length, l.pid, l.client = typ != p9.Unlock, typ, start, length, pid, client
	return p9.LockStatusOK, nil
}

func (f *memLockFile) GetLock(pid int, typ p9.LockType, start, length uint64, client string) (p9.LockType, uint64, uint64, int, string, error) {
	l := f.n.lock
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held && (l.pid != pid || l.client != client) {
		return l.typ, l.start, l.length, l.pid, l.client, nil
	}
	return p9.Unlock, start, length, pid, client, nil
}

// memSlowDir is a directory whose changes take a context. It keeps itself
// from races.
type memSlowDir struct{ *memFile }

var memSlow sync.Mutex

func (d *memSlowDir) MkdirContext(ctx context.Context, name string, perm p9.FileMode, uid p9.UID, gid p9.GID) (p9.QID, error) {
	memSlow.Lock()
	defer memSlow.Unlock()
	if name == "blocks" {
		<-ctx.Done()
		return p9.QID{}, ctx.Err()
	}
	return d.Mkdir(name, perm, uid, gid)
}

func (d *memSlowDir) UnlinkAtContext(_ context.Context, name string, flags uint32) error {
	memSlow.Lock()
	defer memSlow.Unlock()
	return d.UnlinkAt(name, flags)
}

func (d *memSlowDir) RenameAtContext(_ context.Context, oldName string, newDir p9.File, newName string) error {
	memSlow.Lock()
	defer memSlow.Unlock()
	return d.RenameAt(oldName, newDir, newName)
}

func (d *memSlowDir) CreateContext(_ context.Context, name string, flags p9.OpenFlags, perm p9.FileMode, uid p9.UID, gid p9.GID) (p9.File, p9.QID, uint32, error) {
	memSlow.Lock()
	defer memSlow.Unlock()
	return d.Create(name, flags, perm, uid, gid)
}

func (d *memSlowDir) SetAttrContext(_ context.Context, valid p9.SetAttrMask, attr p9.SetAttr) error {
	memSlow.Lock()
	defer memSlow.Unlock()
	return d.SetAttr(valid, attr)
}
