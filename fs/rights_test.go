package fs

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hugelgupf/p9/p9"
	"github.com/stretchr/testify/require"

	p9wire "vmfs/ninep/wire"
)

// What users without rights ask for, and write.
var (
	rightsNames = []string{"sealed", "shown", "anns", "shared", "open", "stray", "nobodys", "down", "x1", "vm0", "nosuch", "..", "ctl", "clone", "events", "version", "backends"}
	rightsBelow = []string{
		"", "ctl", "config", "state", "wait", "memory", "capabilities", "info", "error", "events", "console", "log", "pid",
		"vsock", "vsock/7", "vsock/13", "vsock/700", "vsock/4242", "vsock/clone", "vsock/listen", "vsock/listen/700", "vsock/listen/701",
		"vsock/c0", "vsock/c0/ctl", "vsock/c0/data", "vsock/c0/status", "vsock/c1/ctl", "vsock/c1/data",
		"snapshots", "snapshots/one", "snapshots/one/config", "snapshots/one/info", "nosuch", "../sealed/config", "../../shown/ctl",
	}
	rightsTexts = []string{
		"start", "pause", "resume", "stop", "kill", "reset", "nmi", "poweroff", "cancel", "snapshot two", "restore one", "memory 64M", "128M\n",
		"set vcpus=2", "set vsock.cid=auto", "wait shutdown 1ms", "frob", rude, "create x1", "create sealed", "create ../x", "delete sealed", "delete shown",
		"delete anns", "delete shared", "delete open", "connect 7", "connect 4242", "announce 700", "hangup", "shutdown write",
		"vcpus=2\n", "kernel=/dev/null\nargs=y\n", "memory=64M\n", "frob=1\n", "vcpus=", "dial 700 evil\n", "dial 701 evil\n", "hello\n", "",
	}
)

// picker makes choices of bytes.
type picker struct{ data []byte }

func (p *picker) more() bool { return len(p.data) > 0 }

func (p *picker) pick(n int) int {
	if len(p.data) == 0 {
		return 0
	}
	v := int(p.data[0])
	p.data = p.data[1:]
	return v % n
}

func (p *picker) bytes() []byte {
	n := min(p.pick(40), len(p.data))
	b := bytes.ReplaceAll(p.data[:n], []byte("/"), []byte("_")) // it names no file of this host
	p.data = p.data[n:]
	return b
}

// An attacker is a connection of a subject that does what bytes say.
type attacker struct {
	*picker
	w    *world
	who  *subject
	conn net.Conn
	in   chan []byte // replies
	out  p9wire.Codec
	dec  p9wire.Codec
	tag  uint16
	fids [12]attackerFid
	last uint32 // the fid that was last walked to, of which most is made
	log  []string
}

// An attackerFid is what a fid of the attacker's stands for.
type attackerFid struct {
	path []string
	used bool
}

// hello connects, if it is necessary, and begins a session.
func (a *attacker) hello() {
	t := a.w.t
	if a.conn == nil {
		addr := a.w.addrs[a.who.name]
		conn, err := net.Dial(addr.Network(), addr.String())
		require.NoError(t, err)
		a.conn, a.in = conn, make(chan []byte, 100)
		go func(in chan<- []byte) {
			defer close(in)
			for {
				var size [4]byte
				if _, err := io.ReadFull(conn, size[:]); err != nil {
					return
				}
				frame := make([]byte, binary.LittleEndian.Uint32(size[:]))
				copy(frame, size[:])
				if _, err := io.ReadFull(conn, frame[4:]); err != nil {
					return
				}
				in <- frame
			}
		}(a.in)
	}
	clear(a.fids[:])
	d := []p9wire.Dialect{p9wire.Linux, p9wire.Plan9, p9wire.Unix}[a.pick(3)]
	a.out.Dialect, a.dec.Dialect = d, d
	a.ask(p9wire.Tversion, p9wire.Msg{Tag: p9wire.NoTag, Count: 32 << 10, Name: map[p9wire.Dialect]string{p9wire.Linux: "9P2000.L", p9wire.Plan9: "9P2000", p9wire.Unix: "9P2000.u"}[d]})
	a.attach(0)
}

// attach claims to be somebody.
func (a *attacker) attach(fid int) {
	aname := []string{"", "/", "sealed", "shown/ctl"}[a.pick(8)/2]
	uname := []string{"root", "", a.who.name, "20001"}[a.pick(4)]
	if fid == 0 {
		aname = ""
	}
	if _, ok := a.ask(p9wire.Tattach, p9wire.Msg{Fid: uint32(fid), Fid2: p9wire.NoFid, Name: uname, Name2: aname, UID: []uint32{0, p9wire.NoUser, 20001}[a.pick(3)]}); ok {
		a.walked(fid, strings.FieldsFunc(aname, func(r rune) bool { return r == '/' }))
	}
}

func (a *attacker) hangUp() {
	if a.conn != nil {
		a.conn.Close()
		for range a.in {
		}
		a.conn = nil
	}
}

// ask sends a request and returns its reply; ok is false for an error. What waits it flushes.
func (a *attacker) ask(t p9wire.Type, m p9wire.Msg) (reply p9wire.Msg, ok bool) {
	if m.Tag == 0 {
		a.tag = a.tag%1000 + 1
		m.Tag = a.tag
	}
	frame := a.out.Append(nil, t, &m)
	return a.exchange(fmt.Sprintf("%s fid %d path %v %q %q flags %#x mode %#x data %.60q", a.out.Dialect.Name(t), m.Fid, a.path(m.Fid), m.Name, m.Names, m.Flags, m.Mode, m.Data), frame)
}

func (a *attacker) path(fid uint32) []string {
	if int(fid) < len(a.fids) {
		return a.fids[fid].path
	}
	return nil
}

const flushTag = 2000

func (a *attacker) exchange(what string, frame []byte) (reply p9wire.Msg, ok bool) {
	a.log = append(a.log, what)
	t := a.w.t
	want := binary.LittleEndian.Uint16(frame[5:])
	_ = a.conn.SetWriteDeadline(time.Now().Add(time.Minute))
	if _, err := a.conn.Write(frame); err != nil {
		a.conn.Close() // hung up on; the end of in tells
	}
	soon, end, flushed := time.After(5*time.Millisecond), time.After(time.Minute), false
	for {
		select {
		case b, more := <-a.in:
			if !more {
				a.conn.Close()
				a.conn = nil
				return p9wire.Msg{}, false
			}
			a.mayKnow(b)
			typ, tag := p9wire.Header(b)
			switch {
			case tag == flushTag:
				return reply, ok
			case tag != want:
				continue
			}
			err := a.dec.Decode(b, &reply)
			reply.Names, reply.QIDs = slices.Clone(reply.Names), slices.Clone(reply.QIDs)
			ok = err == nil && typ != p9wire.Rlerror && typ != p9wire.Rerror
			if !flushed {
				return reply, ok
			}
		case <-soon:
			flushed = true
			if _, err := a.conn.Write(a.out.Append(nil, p9wire.Tflush, &p9wire.Msg{Tag: flushTag, Count: uint32(want)})); err != nil {
				a.conn.Close()
			}
		case <-end:
			require.Fail(t, "the server does not answer", a.story())
		}
	}
}

// mayKnow holds that no reply tells of a VM that may not be read.
func (a *attacker) mayKnow(reply []byte) {
	if !bytes.Contains(reply, []byte(secretOf("")[:8])) {
		return
	}
	for _, p := range plots {
		r := a.who.rights(p.owner)
		if !r.read && !r.own && bytes.Contains(reply, []byte(secretOf(p.name))) {
			require.Fail(a.w.t, "a secret is told", "of %s:\n%s", p.name, a.story())
		}
	}
}

func (a *attacker) story() string {
	return a.who.name + ":\n" + strings.Join(a.log[max(0, len(a.log)-60):], "\n")
}

// walked notes that a fid stands for a path, and holds that it may.
func (a *attacker) walked(fid int, path []string) {
	var clean []string
	for _, name := range path {
		switch {
		case name != "..":
			clean = append(clean, name)
		case len(clean) > 0:
			clean = clean[:len(clean)-1]
		}
		if len(clean) > 0 {
			if p, ok := plotOf(clean[0]); ok {
				r := a.who.rights(p.owner)
				if !r.own && !r.mayWalk(clean[1:]) {
					require.Fail(a.w.t, "walked to what may not be", "%q\n%s", clean, a.story())
				}
			}
		}
	}
	if fid < len(a.fids) {
		a.fids[fid] = attackerFid{clean, true}
	}
}

func plotOf(name string) (plot, bool) {
	i := slices.IndexFunc(plots, func(p plot) bool { return p.name == name })
	if i < 0 {
		return plot{}, false
	}
	return plots[i], true
}

// opened holds that what was opened may be.
func (a *attacker) opened(path []string, read, write bool) {
	ok := a.who.mayOpenRoot(path, write)
	if len(path) > 0 {
		if p, is := plotOf(path[0]); is {
			r := a.who.rights(p.owner)
			ok = r.own || r.mayOpen(path[1:], read, write) // who owns it may have changed its mode
		} else if path[0] == "x1" || strings.HasPrefix(path[0], "vm") {
			ok = a.who.creates
		}
	}
	if !ok {
		require.Fail(a.w.t, "opened what may not be", "%q read %v write %v\n%s", path, read, write, a.story())
	}
}

func (a *attacker) name() string { return rightsNames[a.pick(len(rightsNames))] }

// step does one thing.
func (a *attacker) step() {
	if a.conn == nil {
		a.hello()
		return
	}
	fid := a.last
	if a.pick(3) == 0 {
		fid = uint32(a.pick(len(a.fids)))
	}
	linux := a.out.Dialect == p9wire.Linux
	switch op := a.pick(32); {
	case op < 9: // go somewhere, and as a rule open it
		fid = uint32(a.pick(len(a.fids)))
		a.walk(fid, append([]string{a.name()}, strings.FieldsFunc(rightsBelow[a.pick(len(rightsBelow))], func(r rune) bool { return r == '/' })...)...)
		if op < 7 && a.conn != nil {
			a.open(fid)
		}
	case op < 11:
		a.open(fid)
	case op < 15:
		text := []byte(rightsTexts[a.pick(len(rightsTexts))])
		if a.pick(5) == 0 {
			text = a.bytes()
		}
		a.ask(p9wire.Twrite, p9wire.Msg{Fid: fid, Data: text, Offset: uint64(a.pick(2))})
	case op < 18:
		t := p9wire.Tread
		if linux && a.pick(3) == 0 {
			t = p9wire.Treaddir
		}
		a.ask(t, p9wire.Msg{Fid: fid, Count: 8 << 10, Offset: uint64(a.pick(2) * 10)})
	case op == 18:
		a.clunk(fid)
	case op == 19:
		if linux {
			a.ask(p9wire.Tgetattr, p9wire.Msg{Fid: fid, Mask: p9.AttrMaskAll})
		} else {
			a.ask(p9wire.Tstat, p9wire.Msg{Fid: fid})
		}
	case op < 22:
		if a.pick(2) == 0 {
			a.walk(fid, a.name())
		}
		if a.conn != nil {
			a.setattr(fid)
		}
	case op == 22:
		if fid = a.parent(fid); a.conn == nil {
			return
		}
		name := []string{"x1", "two", "sealed", "../x", "ctl"}[a.pick(5)]
		mode := uint32(a.pick(8))<<6 | uint32(a.pick(8))
		if linux {
			a.ask(p9wire.Tmkdir, p9wire.Msg{Fid: fid, Name: name, Mode: mode, GID: []uint32{0, 500, 600, p9wire.NoUser}[a.pick(4)]})
		} else {
			a.ask(p9wire.Tcreate, p9wire.Msg{Fid: fid, Name: name, Mode: 1 << 31, Flags: mode})
			a.forget(fid)
		}
	case op == 23:
		if fid = a.parent(fid); a.conn == nil {
			return
		}
		if linux {
			a.ask(p9wire.Tunlinkat, p9wire.Msg{Fid: fid, Name: []string{"one", "one", "two", a.name()}[a.pick(4)], Flags: []uint32{0, 0x200, 0x200}[a.pick(3)]})
		} else {
			a.ask(p9wire.Tremove, p9wire.Msg{Fid: fid})
			a.forget(fid)
		}
	case op == 24:
		a.ask(p9wire.Tremove, p9wire.Msg{Fid: fid})
		a.forget(fid)
	case op == 25 && linux:
		a.ask(p9wire.Tlcreate, p9wire.Msg{Fid: fid, Name: []string{"config", "ctl", "new"}[a.pick(3)], Flags: []uint32{0, 1, 2, 0o1001}[a.pick(4)], Mode: 0o666})
		a.forget(fid)
	case op == 26 && linux:
		other := uint32(a.pick(len(a.fids)))
		m := p9wire.Msg{Fid: fid, Fid2: other, Name: a.name(), Name2: a.name(), UID: 0, GID: 0}
		a.ask([]p9wire.Type{p9wire.Trename, p9wire.Trenameat, p9wire.Tlink, p9wire.Tsymlink, p9wire.Tmknod}[a.pick(5)], m)
	case op == 27 && linux:
		m := p9wire.Msg{Fid: fid, Fid2: 11, Name: "user.x", Count: 1}
		a.ask([]p9wire.Type{p9wire.Tfsync, p9wire.Tlock, p9wire.Tgetlock, p9wire.Txattrwalk, p9wire.Tstatfs, p9wire.Treadlink}[a.pick(6)], m)
		a.forget(11)
	case op == 28:
		if fid != 0 {
			a.attach(int(fid))
		}
	case op == 29: // whatever; what fids are then nobody knows
		b := append([]byte{0, 0, 0, 0, byte(a.pick(140)), 1, 1}, a.bytes()...)
		binary.LittleEndian.PutUint32(b, uint32(len(b)))
		a.exchange("raw "+strconv.Quote(string(b)), b)
		if a.conn != nil {
			a.hello()
		}
	case op == 30:
		a.hangUp()
	case op == 31:
		a.hello()
	}
}

// walk has a fid stand for a path from the root.
func (a *attacker) walk(fid uint32, names ...string) {
	if a.fids[fid].used && fid != 0 {
		a.clunk(fid)
	}
	if a.conn == nil {
		return
	}
	if r, ok := a.ask(p9wire.Twalk, p9wire.Msg{Fid: 0, Fid2: fid, Names: names}); ok {
		path := append(slices.Clone(a.fids[0].path), names[:len(r.QIDs)]...)
		if len(r.QIDs) < len(names) {
			a.walked(len(a.fids), path) // the fid is none
			return
		}
		a.last = fid
		a.walked(int(fid), path)
	}
}

// parent is a directory to make something in, or to remove it: the root, or that of a VM's
// snapshots.
func (a *attacker) parent(fid uint32) uint32 {
	switch a.pick(3) {
	case 0:
		return 0
	case 1:
		if fid == 0 {
			fid = 1
		}
		a.walk(fid, a.name(), "snapshots")
	}
	return fid
}

// forget gives a fid up of which it is not known what it stands for.
func (a *attacker) forget(fid uint32) {
	if a.conn == nil {
		return
	}
	a.clunk(fid)
	if fid == 0 && a.conn != nil {
		a.attach(0)
	}
}

func (a *attacker) clunk(fid uint32) {
	a.ask(p9wire.Tclunk, p9wire.Msg{Fid: fid})
	a.fids[fid] = attackerFid{}
	if fid == 0 && a.conn != nil {
		a.attach(0)
	}
}

func (a *attacker) open(fid uint32) {
	mode := uint32(a.pick(3))
	m := p9wire.Msg{Fid: fid, Flags: mode, Mode: mode}
	truncates := a.pick(4) == 0
	t := p9wire.Topen
	if a.out.Dialect == p9wire.Linux {
		t = p9wire.Tlopen
	}
	if truncates {
		m.Flags, m.Mode = mode|0o1000, mode|0x10
	}
	if _, ok := a.ask(t, m); ok && a.fids[fid].used {
		a.opened(a.fids[fid].path, mode != 1, mode != 0 || truncates)
	}
}

func (a *attacker) setattr(fid uint32) {
	if a.out.Dialect != p9wire.Linux {
		return
	}
	set := p9.SetAttrMask{Permissions: a.pick(2) == 0, UID: a.pick(3) == 0, GID: a.pick(3) == 0, Size: a.pick(3) == 0, MTime: a.pick(3) == 0}
	a.ask(p9wire.Tsetattr, p9wire.Msg{Fid: fid, SetMask: set, SetAttr: &p9.SetAttr{
		Permissions: p9.FileMode([]uint32{0o777, 0o700, 0o4777}[a.pick(3)]), UID: p9.UID([]uint32{0, 20001, a.who.uid}[a.pick(3)]), GID: p9.GID([]uint32{0, 500, 600}[a.pick(3)]),
	}})
}

// attack has a subject do what data says.
func (w *world) attack(who *subject, data []byte) {
	a := &attacker{picker: &picker{data}, w: w, who: who}
	defer a.hangUp()
	for a.more() {
		a.step()
	}
}

// noise is what a seed makes of itself.
func noise(rnd *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rnd.Uint32())
	}
	return b
}

// TestRights has users do at random what they can, to the VMs of others above all, on a real
// server, and holds against the model that they get at nothing and change nothing that they
// have no right to. One seed finds the same again: VMFS_RIGHTS_SEED=N.
func TestRights(t *testing.T) {
	seed := rand.Uint64()
	if s := os.Getenv("VMFS_RIGHTS_SEED"); s != "" {
		var err error
		seed, err = strconv.ParseUint(s, 10, 64)
		require.NoError(t, err)
	}
	t.Logf("VMFS_RIGHTS_SEED=%d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	w := newWorld(t)
	for round := range 20 {
		who := subjects[round%len(subjects)]
		w.attack(who, noise(rnd, 600))
		w.check(fmt.Sprintf("round %d, %s", round, who.name), who)
	}
	// All at once.
	var wg sync.WaitGroup
	for _, who := range subjects {
		data := noise(rnd, 600)
		wg.Go(func() { w.attack(who, data) })
	}
	wg.Wait()
	w.check("all at once", subjects...)
}

// FuzzRights is TestRights for whatever bytes: the first says who it is.
func FuzzRights(f *testing.F) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for i := range subjects {
		f.Add(append([]byte{byte(i)}, noise(rnd, 200)...))
	}
	w := newWorld(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) < 2 || len(data) > 1000 {
			return
		}
		w.t = t
		defer func() { w.t = f }()
		who := subjects[int(data[0])%len(subjects)]
		w.attack(who, data[1:])
		w.check(who.name, who)
	})
}
