package events

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"vmfs/backends/hypervisor"
	"vmfs/internal/printable"
	"vmfs/machine/owner"
	"vmfs/machine/rc"
)

// The kinds of events that machine adds to those of hypervisor.EventKind.
const (
	KindCreated  = "created"  // the VM was made
	KindDeleted  = "deleted"  // it was removed; the last event of a VM
	KindStarting = "starting" // a start or restore has begun
	KindStarted  = "started"  // it has succeeded
	KindAdopted  = "adopted"  // a VMM that ran before this server did was found again
	// KindDisconnected is a VMM that runs and whose connection was lost, or that does
	// not answer; KindReconnected is one that answers again.
	KindDisconnected = "disconnected"
	KindReconnected  = "reconnected"
	KindExited       = "exited"   // the VMM has ended; reason says why
	KindConfig       = "config"   // the configuration was changed; detail "keys"
	KindOwner        = "owner"    // owner, group or mode were changed
	KindFailed       = "failed"   // a command failed; detail "verb" and "error"
	KindResize       = "resize"   // the memory target was set; detail "target"
	KindSnapshot     = "snapshot" // one was taken or removed; detail "name" and "done"
	KindVsock        = "vsock"    // streams of the guest's vsock ended with it, or its device was restarted; see the detail
	KindLost         = "lost"     // this subscriber was too slow and missed n events
)

// TimeFormat is how times are written: UTC with milliseconds.
const TimeFormat = "2006-01-02T15:04:05.000Z07:00"

// An Event is one thing that happened to a VM.
type Event struct {
	// Seq counts the events of one VM from 1, over restarts of the server.
	Seq    uint64
	Time   time.Time
	VM     string
	Kind   string
	State  hypervisor.VMState // after it; "" where it has nothing to do with the state
	Reason string
	Detail []hypervisor.Detail
	// Owner is the VM's owner then, for deciding who may read the event. It is not in
	// the line.
	Owner owner.Owner
}

// longestValue is how much of a detail is told: an error can quote a whole
// configuration.
const longestValue = 4 << 10

// Cut shortens what is too long to be told.
func (e *Event) Cut() {
	e.Reason = rc.Brief(e.Reason, longestValue)
	for i, d := range e.Detail {
		if len(d.Value) > longestValue {
			e.Detail = slices.Clone(e.Detail) // it can be a back end's
			e.Detail[i].Value = rc.Brief(d.Value, longestValue)
		}
	}
}

// String renders the event as one line, without its end:
//
//	SEQ TIME VM KIND state=… reason=… KEY=VALUE…
//
// The time is UTC with milliseconds; values are quoted as rc does, and what a guest, a VMM
// or a client has said in them is made printable.
func (e Event) String() string {
	var b strings.Builder
	b.WriteString(strconv.FormatUint(e.Seq, 10))
	b.WriteByte(' ')
	b.WriteString(e.Time.UTC().Format(TimeFormat))
	b.WriteByte(' ')
	b.WriteString(e.VM)
	b.WriteByte(' ')
	b.WriteString(e.Kind)
	field := func(k, v string) {
		b.WriteByte(' ')
		b.WriteString(strings.Map(word, k))
		b.WriteByte('=')
		b.WriteString(rc.Quote(printable.Line(v)))
	}
	if e.State != "" {
		field("state", string(e.State))
	}
	if e.Reason != "" {
		field("reason", e.Reason)
	}
	for _, d := range e.Detail {
		field(d.Key, d.Value)
	}
	return b.String()
}

// word keeps a key that a VMM made up from looking like another field.
func word(r rune) rune {
	if strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-", r) {
		return r
	}
	return '_'
}
