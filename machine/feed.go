package machine

import (
	"context"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	"vmfs/backends/hypervisor"
	"vmfs/internal/queue"
	"vmfs/machine/rc"
)

// The kinds of records that machine adds to those of hypervisor.EventKind.
const (
	KindCreated  = "created"  // the VM was made
	KindDeleted  = "deleted"  // it was removed; the last record of a VM
	KindStarting = "starting" // a start or restore has begun
	KindStarted  = "started"  // it has succeeded
	KindAdopted  = "adopted"  // a VMM that ran before this server did was found again
	KindUnheard  = "unheard"  // the connection to a VMM that runs was lost, or it does not answer
	KindHeard    = "heard"    // it answers again
	KindExited   = "exited"   // the VMM has ended; reason says why
	KindConfig   = "config"   // the configuration was changed; detail "keys"
	KindOwner    = "owner"    // owner, group or mode were changed
	KindFailed   = "failed"   // a command failed; detail "verb" and "error"
	KindResize   = "resize"   // the memory target was set; detail "target"
	KindSnapshot = "snapshot" // one was taken or removed; detail "name" and "done"
	KindVsock    = "vsock"    // streams of the guest's vsock ended with it, or its device was restarted; see the detail
	KindLost     = "lost"     // n records did not reach this subscriber, who was too slow
)

const timeFormat = "2006-01-02T15:04:05.000Z07:00"

// A Record is one thing that happened to a VM.
type Record struct {
	// Seq counts the records of one VM from 1, over restarts of the server.
	Seq    uint64
	Time   time.Time
	VM     string
	Kind   string
	State  hypervisor.VMState // after it; "" where it has nothing to do with the state
	Reason string
	Detail []hypervisor.Detail
	// Owner is whose the VM was then, for who decides about readers; the line does
	// not have it.
	Owner Owner
}

// String renders the record as one line, without its end:
//
//	SEQ TIME VM KIND state=… reason=… KEY=VALUE…
//
// The time is UTC with milliseconds; values are quoted as rc does.
func (r Record) String() string {
	var b strings.Builder
	b.WriteString(strconv.FormatUint(r.Seq, 10))
	b.WriteByte(' ')
	b.WriteString(r.Time.UTC().Format(timeFormat))
	b.WriteByte(' ')
	b.WriteString(r.VM)
	b.WriteByte(' ')
	b.WriteString(r.Kind)
	field := func(k, v string) {
		b.WriteByte(' ')
		b.WriteString(k)
		b.WriteByte('=')
		b.WriteString(rc.Quote(oneLine(v)))
	}
	if r.State != "" {
		field("state", string(r.State))
	}
	if r.Reason != "" {
		field("reason", r.Reason)
	}
	for _, d := range r.Detail {
		field(d.Key, d.Value)
	}
	return b.String()
}

// oneLine keeps what a guest or a VMM said from looking like another record.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
}

// maxQueue is how many records wait for one subscriber before it loses some.
const maxQueue = 1024

// A Feed hands records to any number of subscribers. Publishing never waits.
type Feed struct {
	mu     sync.Mutex // guards subs, closed
	subs   map[*Subscription]struct{}
	closed bool
}

// Subscribe begins a subscription with the next record. The caller closes it.
func (f *Feed) Subscribe() *Subscription {
	s := &Subscription{feed: f, queue: queue.New(maxQueue, lostRecords)}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		s.queue.End(io.EOF)
		return s
	}
	if f.subs == nil {
		f.subs = make(map[*Subscription]struct{})
	}
	f.subs[s] = struct{}{}
	return s
}

func (f *Feed) publish(r Record) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for s := range f.subs {
		s.queue.Put(r)
	}
}

// close ends every subscription once its queue has been read.
func (f *Feed) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	for s := range f.subs {
		s.queue.End(io.EOF)
	}
	f.subs = nil
}

// A Subscription is one reader of a Feed.
type Subscription struct {
	feed  *Feed
	queue *queue.Queue[Record]
}

// lostRecords stands for n records, of which last was the last.
func lostRecords(n int, last Record) Record {
	return Record{Seq: last.Seq, Time: last.Time, VM: last.VM, Kind: KindLost, Detail: []hypervisor.Detail{{Key: "n", Value: strconv.Itoa(n)}}}
}

// TryNext returns the next record if there is one.
func (s *Subscription) TryNext() (Record, bool) { return s.queue.TryNext() }

// Next waits for the next record. A subscriber that was so slow that its queue
// ran over gets a record of KindLost first, whose detail n says how many it
// missed. When the VM is deleted, the Host closed or the subscription closed, it
// returns io.EOF after what is queued.
func (s *Subscription) Next(ctx context.Context) (Record, error) { return s.queue.Next(ctx) }

// Close ends the subscription and wakes who waits in Next.
func (s *Subscription) Close() {
	s.feed.mu.Lock()
	delete(s.feed.subs, s)
	s.feed.mu.Unlock()
	s.queue.Close(io.EOF)
}
