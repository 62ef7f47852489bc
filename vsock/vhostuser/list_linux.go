package vhostuser

import "time"

// The lists a stream can be in, one at a time of each kind.
const (
	kindControl = iota // has control packets to send
	kindData           // may have bytes for the guest
	kindTimer          // must do something by a time
	kinds
)

type links struct {
	prev, next *stream
	in         *list
}

// list is a queue of streams that can leave it from anywhere.
type list struct {
	kind       int
	head, tail *stream
	wait       time.Duration // of timers: how long from push
}

func (l *list) empty() bool { return l.head == nil }

// push puts s at the end, unless it is in a list of this kind already.
func (l *list) push(s *stream) {
	k := &s.links[l.kind]
	if k.in != nil {
		return
	}
	*k = links{prev: l.tail, in: l}
	if l.tail == nil {
		l.head = s
	} else {
		l.tail.links[l.kind].next = s
	}
	l.tail = s
}

func (l *list) pop() *stream {
	s := l.head
	if s != nil {
		s.leave(l.kind)
	}
	return s
}

// leave takes s out of its list of a kind, if it is in one.
func (s *stream) leave(kind int) {
	k := s.links[kind]
	l := k.in
	if l == nil {
		return
	}
	if k.prev == nil {
		l.head = k.next
	} else {
		k.prev.links[kind].next = k.next
	}
	if k.next == nil {
		l.tail = k.prev
	} else {
		k.next.links[kind].prev = k.prev
	}
	s.links[kind] = links{}
}

// arm sets the stream's one timer. All streams of a timer list wait equally
// long, so the list is in the order of their times.
func (l *list) arm(s *stream, now time.Time) {
	s.leave(kindTimer)
	s.due = now.Add(l.wait)
	l.push(s)
}
