package ninep

import (
	"container/list"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// turns has few connections at a time handle what they were sent, and one user after the
// other: who sends more than the server can handle, on however many connections, waits
// for himself, and others for one turn of his. There is one less than the processors that
// Go runs on, so that one is there to see what others have sent: while all are busy, Go
// looks at the network a hundred times a second and no more.
//
// While users wait for each other, each rests for as long as a long turn of his took. What
// is won is the processor's time for all else: for the clients too, which may share it.
type turns struct {
	now     func() time.Duration
	waiting atomic.Int32 // how many connections wait

	mu    sync.Mutex // guards what follows, and userShare.queue and .rest
	free  int
	users list.List     // of *userShare: those of whose connections some wait
	last  *userShare    // who had a turn last
	vied  time.Duration // when a user last waited for another
	timed bool          // a timer will look for who has rested
}

const (
	// longTurn is how long a turn may take while others wait.
	longTurn = 200 * time.Microsecond
	// vying is for how long users count as waiting for each other after one has.
	vying = 10 * time.Millisecond
)

func (t *turns) init(now func() time.Duration) {
	t.now = now
	t.free = max(1, runtime.GOMAXPROCS(0)-1)
	t.vied = -vying
}

// take waits for a turn of a user. begun is a channel of the caller's with room for one.
func (t *turns) take(u *userShare, begun chan struct{}) {
	t.mu.Lock()
	if t.free > 0 && len(u.queue) == 0 && (u.rest == 0 || u.rest <= t.now()) {
		t.free--
		t.last, u.rest = u, 0
		t.mu.Unlock()
		return
	}
	if t.free == 0 && t.last != u {
		t.vied = t.now()
	}
	if len(u.queue) == 0 {
		t.users.PushBack(u)
	}
	u.queue = append(u.queue, begun)
	t.waiting.Add(1)
	t.dispatch()
	t.mu.Unlock()
	<-begun
}

// give ends a turn of a user, which took so long.
func (t *turns) give(u *userShare, took time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.free++
	if took > longTurn/4 {
		if now := t.now(); now-t.vied < vying {
			u.rest = now + took
		}
	}
	if t.users.Len() > 0 {
		t.dispatch()
	}
}

// dispatch gives the free turns to those who wait, one user after the other, and sees to
// it that it is called again if some of them rest. mu is held.
func (t *turns) dispatch() {
	now := t.now()
	soonest := time.Duration(-1)
	for e := t.users.Front(); e != nil && t.free > 0; {
		u := e.Value.(*userShare)
		next := e.Next()
		if u.rest > now {
			if soonest < 0 || u.rest < soonest {
				soonest = u.rest
			}
			e = next
			continue
		}
		t.free--
		t.last, u.rest = u, 0
		u.queue[0] <- struct{}{}
		u.queue[0] = nil
		t.waiting.Add(-1)
		if u.queue = u.queue[1:]; len(u.queue) == 0 {
			u.queue = nil
			t.users.Remove(e)
		} else if t.users.MoveToBack(e); next == nil {
			next = e // it alone is left
		}
		e = next
	}
	if t.free > 0 && soonest >= 0 && !t.timed {
		t.timed = true
		time.AfterFunc(soonest-now, func() {
			t.mu.Lock()
			defer t.mu.Unlock()
			t.timed = false
			t.dispatch()
		})
	}
}

// beginTurn waits until the connection may handle a message, unless it may already: after
// a long turn others come first.
func (c *conn) beginTurn() {
	t := &c.srv.turns
	if c.turn {
		if t.waiting.Load() == 0 || c.srv.now()-c.turnBegan < longTurn {
			return
		}
		c.endTurn()
	}
	t.take(c.share, c.turnBegun)
	c.turn, c.turnBegan = true, c.srv.now()
}

// endTurn is for before whatever can wait.
func (c *conn) endTurn() {
	if c.turn {
		c.turn = false
		c.srv.turns.give(c.share, c.srv.now()-c.turnBegan)
	}
}
