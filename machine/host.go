package machine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"vmfs/internal/durable"
	"vmfs/internal/unixsock"
	"vmfs/machine/config"
	"vmfs/machine/console"
	"vmfs/machine/events"
	"vmfs/machine/owner"
)

// A Host is the VMs of one state directory.
type Host struct {
	opts   Options
	dir    string // absolute
	log    *slog.Logger
	lock   *os.File
	notify *console.Notifier // nil where the system has none
	feed   events.Feed
	room   events.Room // of the feed, and of those of the VMs

	ctx    context.Context // ends when the Host is closed
	cancel context.CancelFunc

	nextID atomic.Uint64
	cids   sync.Mutex // held while a CID is picked, so that no two VMs get the same

	mu     sync.RWMutex   // guards all below
	wg     sync.WaitGroup // every goroutine and command; not added to once closed
	closed bool
	vms    map[string]*VM // a nil VM is a name that is being made or removed
	sorted []*VM          // by name; replaced, never changed
	gen    uint32         // see Gen

	backends backendCache
}

// Open takes a state directory into use: it locks it, loads every VM and finds
// the VMMs again that run. It waits for those that do not answer for no longer
// than Timeouts.Adopt; they are found as soon as they do. A VM whose record cannot be
// read is there all the same, and says so in its reason and error.
func Open(ctx context.Context, o Options) (*Host, error) {
	if o.StateDir == "" {
		return nil, errors.New("machine: open: no state directory given")
	}
	dir, err := filepath.Abs(o.StateDir)
	if err != nil {
		return nil, fmt.Errorf("machine: open %s: %w", o.StateDir, err)
	}
	fail := func(err error) (*Host, error) {
		var locked *LockedError
		if errors.As(err, &locked) {
			return nil, err
		}
		return nil, fmt.Errorf("machine: open %s: %w", dir, err)
	}
	vmsDir := filepath.Join(dir, "vms")
	for _, d := range []string{dir, vmsDir} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return fail(err)
		}
	}
	lock, err := lockDir(ctx, dir)
	if err != nil {
		return fail(err)
	}
	h := &Host{
		opts: o,
		dir:  dir,
		log:  o.Log,
		lock: lock,
		vms:  make(map[string]*VM),
	}
	h.feed.Room = &h.room
	h.opts.Timeouts = o.Timeouts.withDefaults()
	if h.log == nil {
		h.log = slog.New(slog.DiscardHandler)
	}
	if room := nameRoom(vmsDir); room < roomyName {
		h.log.Warn("the state directory's path is so long that VMs cannot have long names: the path of a Unix socket is limited",
			"state", dir, "longest name", max(room, 0), "longest path", unixsock.MaxPath)
	}
	h.ctx, h.cancel = context.WithCancel(context.Background())
	if h.notify, err = console.NewNotifier(); err != nil {
		h.log.Warn("cannot watch files: consoles are polled instead", "err", err)
	}
	if err := durable.ClearLeftovers(vmsDir); err != nil {
		h.log.Warn("cannot remove leftovers of an earlier server", "dir", vmsDir, "err", err)
	}
	if err := h.load(vmsDir); err != nil {
		h.Close()
		return fail(err)
	}
	h.findBackends()
	if err := h.adopt(ctx); err != nil {
		h.Close()
		return fail(err)
	}
	return h, nil
}

// load reads every VM's directory.
func (h *Host) load(vmsDir string) error {
	entries, err := os.ReadDir(vmsDir)
	if err != nil {
		return err
	}
	var top uint64
	var unnumbered []*VM
	seen := make(map[uint64]bool)
	for _, e := range entries {
		name := e.Name()
		if !e.IsDir() {
			continue
		}
		if err := h.checkName(name); err != nil {
			h.log.Warn("ignoring a directory that is no VM's", "dir", filepath.Join(vmsDir, name), "err", err)
			continue
		}
		v := h.loadVM(name)
		if v.id == 0 || seen[v.id] {
			v.id = 0
			unnumbered = append(unnumbered, v)
		}
		seen[v.id] = v.id != 0
		top = max(top, v.id)
		h.vms[name] = v
		h.gen++
		h.sorted = append(h.sorted, v)
	}
	h.nextID.Store(top)
	for _, v := range unnumbered {
		for v.id = 1; seen[v.id]; v.id++ {
		}
		seen[v.id], v.rec.ID = true, v.id
		h.nextID.Store(max(h.nextID.Load(), v.id))
	}
	slices.SortFunc(h.sorted, byName)
	return nil
}

func byName(a, b *VM) int { return strings.Compare(a.name, b.name) }

// Close stops following the VMs, ends the commands under way and waits for
// everything that was begun. VMs that run go on running.
func (h *Host) Close() error {
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return nil
	}
	h.closed = true
	vms := h.sorted
	h.mu.Unlock()

	h.cancel()
	h.wg.Wait()
	for _, v := range vms {
		v.events.Close()
		v.console.Close()
	}
	h.feed.Close()
	h.notify.Close()
	return h.lock.Close()
}

// enter counts one more goroutine or command that Close waits for. The caller
// calls leave if it is true.
func (h *Host) enter() bool {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if h.closed {
		return false
	}
	h.wg.Add(1)
	return true
}

func (h *Host) leave() { h.wg.Done() }

// spawn runs f in a goroutine of the Host's, unless it is closed.
func (h *Host) spawn(f func()) bool {
	if !h.enter() {
		return false
	}
	go func() {
		defer h.leave()
		f()
	}()
	return true
}

// VM returns the VM of that name.
func (h *Host) VM(name string) (*VM, bool) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	v := h.vms[name]
	return v, v != nil
}

// VMs returns all VMs, sorted by name. The caller does not change the slice.
func (h *Host) VMs() []*VM {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.sorted
}

// Gen returns a number that is another whenever VMs were made or removed.
func (h *Host) Gen() uint32 {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.gen
}

// Events returns the feed of all VMs' events, those of VMs that come and go
// included.
func (h *Host) Events() *events.Feed { return &h.feed }

// reserve takes a name. It is given back by settle.
func (h *Host) reserve(name string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return ErrClosed
	}
	if _, taken := h.vms[name]; taken {
		return ErrExists
	}
	h.vms[name] = nil
	h.wg.Add(1)
	return nil
}

// settle makes a reserved name v's, or free where v is nil.
func (h *Host) settle(name string, v *VM) {
	h.mu.Lock()
	defer h.mu.Unlock()
	defer h.wg.Done()
	if v == nil {
		delete(h.vms, name)
		return
	}
	h.vms[name] = v
	i, _ := slices.BinarySearchFunc(h.sorted, v, byName)
	h.gen++
	h.sorted = slices.Insert(slices.Clone(h.sorted), i, v)
}

// Create makes a VM with the default configuration. The error is an ErrName or
// ErrExists where the name is to blame.
func (h *Host) Create(name string, o Owner) (*VM, error) {
	fail := func(err error) (*VM, error) { return nil, fmt.Errorf("machine: create %s: %w", name, err) }
	if err := h.checkName(name); err != nil {
		return fail(err)
	}
	if err := checkRoom(filepath.Join(h.dir, "vms"), name); err != nil {
		return fail(err)
	}
	if err := h.reserve(name); err != nil {
		return fail(err)
	}
	v, err := h.create(name, o)
	h.settle(name, v)
	if err != nil {
		return fail(err)
	}
	v.emit(events.Event{Kind: events.KindCreated, State: v.State()})
	return v, nil
}

// CreateAny makes a VM with the first free name of vm0, vm1, vm2 and so on.
func (h *Host) CreateAny(o Owner) (*VM, error) {
	for i := 0; ; i++ {
		name := "vm" + strconv.Itoa(i)
		h.mu.RLock()
		_, taken := h.vms[name]
		h.mu.RUnlock()
		if taken {
			continue
		}
		v, err := h.Create(name, o)
		if errors.Is(err, ErrExists) {
			continue
		}
		return v, err
	}
}

// create makes the VM's directory aside and moves it into place when it is whole.
func (h *Host) create(name string, o Owner) (v *VM, err error) {
	vmsDir := filepath.Join(h.dir, "vms")
	aside, err := os.MkdirTemp(vmsDir, durable.NewPrefix+name+"-")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			os.RemoveAll(aside)
		}
	}()
	if o.Mode == 0 {
		o.Mode = owner.DefaultMode
	}
	id := h.nextID.Add(1)
	if id > MaxID {
		return nil, errors.New("no number is left for another VM")
	}
	rec := record{
		Format:  recordFormat,
		ID:      id,
		UUID:    newUUID(),
		Created: time.Now(),
		Owner:   o.Clean(),
		Phase:   phaseDown,
	}
	if err := rec.write(filepath.Join(aside, recordFile)); err != nil {
		return nil, err
	}
	dir := filepath.Join(vmsDir, name)
	if _, err := os.Lstat(dir); err == nil {
		return nil, fmt.Errorf("%s is in the way: %w", dir, ErrExists)
	}
	if err := os.Rename(aside, dir); err != nil {
		return nil, err
	}
	if err := durable.SyncDir(vmsDir); err != nil {
		os.Rename(dir, aside)
		return nil, err
	}
	return h.newVM(name, rec, h.defaultConfig()), nil
}

func (h *Host) defaultConfig() config.Config {
	c := config.Default()
	if t := h.opts.DefaultBackend; t != "" {
		c = c.ForType(t)
	}
	return c
}
