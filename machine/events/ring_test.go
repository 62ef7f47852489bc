package events

import (
	"context"
	"io"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/hypervisor"
)

// inUse is how much memory is.
func inUse() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// Sixteen thousand readers of one audience who read nothing hold what one of them does,
// and to publish is to look at one ring.
func TestManyReaders(t *testing.T) {
	var f Feed
	const readers, told = 16000, MaxWaiting + 76
	before := inUse()
	asked := 0
	subs := make([]*Subscription, readers)
	for i := range subs {
		subs[i] = f.SubscribeAs(Audience{Name: "ann", May: func(Event) bool { asked++; return true }})
	}
	for i := range uint64(told) {
		f.Publish(Event{Seq: i + 1, VM: "web", Detail: []hypervisor.Detail{{Key: "error", Value: strings.Repeat("x", 100)}}})
	}
	assert.Equal(t, told, asked, "an event is looked at once for all of them")
	assert.Less(t, (inUse()-before)/readers, uint64(512), "bytes a reader")
	for _, s := range subs {
		e, err := s.Next(t.Context())
		require.NoError(t, err)
		require.Equal(t, KindLost, e.Kind)
		require.Equal(t, "76", e.Detail[0].Value)
		s.Close()
	}
	assert.Empty(t, f.rings, "the ring goes with its last reader")
}

// What an audience may not see is not there for it: it takes none of its room, and is
// not counted in what it lost.
func TestAudiences(t *testing.T) {
	var f Feed
	of := func(vm string) Audience {
		return Audience{Name: vm, May: func(e Event) bool { return e.VM == vm }}
	}
	ann, bob := f.SubscribeAs(of("ann's")), f.SubscribeAs(of("bob's"))
	defer ann.Close()
	f.Publish(Event{Seq: 1, VM: "ann's"})
	for i := range uint64(3 * MaxWaiting) {
		f.Publish(Event{Seq: i + 1, VM: "bob's"})
		f.Publish(Event{Seq: i + 1, VM: "bob's", Kind: KindLost})
	}
	f.Publish(Event{Seq: 2, VM: "ann's"})
	for want := range uint64(2) {
		e, ok := ann.TryNext()
		require.True(t, ok)
		assert.Equal(t, "ann's", e.VM)
		assert.Equal(t, want+1, e.Seq)
	}
	_, ok := ann.TryNext()
	assert.False(t, ok)
	e, ok := bob.TryNext()
	require.True(t, ok)
	assert.Equal(t, "n", e.Detail[0].Key)
	assert.Equal(t, "5120", e.Detail[0].Value)
	bob.Close()
	late := f.SubscribeAs(of("bob's"))
	defer late.Close()
	_, ok = late.TryNext()
	assert.False(t, ok, "a subscription begins with the next event")
}

// Long events lose their place before a thousand of them wait, and the rings of clients
// are smaller where there are many: not that of the program itself.
func TestRoom(t *testing.T) {
	var room Room
	one, many := Feed{Room: &room}, Feed{Room: &room}
	own := one.Subscribe()
	defer own.Close()
	ann := one.SubscribeAs(Audience{Name: "ann"})
	defer ann.Close()
	put := func() {
		for i := range uint64(200) {
			one.Publish(Event{Seq: i + 1, Detail: []hypervisor.Detail{{Key: "error", Value: strings.Repeat("x", longestValue)}}})
		}
	}
	held := func(s *Subscription) int { return s.ring.bytes }
	put()
	assert.InDelta(t, ringBytes, held(ann), 2*longestValue)
	before := inUse()
	for i := range 8000 {
		defer many.SubscribeAs(Audience{Name: strconv.Itoa(i)}).Close()
	}
	put()
	assert.LessOrEqual(t, held(ann), ReaderBytes)
	assert.InDelta(t, ringBytes, held(own), 2*longestValue)
	many.Publish(Event{VM: strings.Repeat("v", 100)})
	assert.Less(t, inUse()-before, uint64(64<<20))
}

// Each of many who wait is woken by an event, though the publisher wakes one: also
// where some of them leave instead.
func TestAllAreWoken(t *testing.T) {
	var f Feed
	const readers = 300
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	var wg sync.WaitGroup
	var stay []*Subscription
	for i := range readers {
		s := f.SubscribeAs(Audience{})
		if i%3 == 0 {
			wg.Go(func() {
				defer s.Close()
				for {
					if _, err := s.Next(ctx); err != nil {
						assert.ErrorIs(t, err, context.Canceled)
						return
					}
				}
			})
			continue
		}
		stay = append(stay, s)
	}
	var each sync.WaitGroup
	const told = 100
	for _, s := range stay {
		each.Go(func() {
			for want := range uint64(told) {
				e, err := s.Next(t.Context())
				if !assert.NoError(t, err) || !assert.Equal(t, want, e.Seq) {
					return
				}
			}
			_, err := s.Next(t.Context())
			assert.ErrorIs(t, err, io.EOF)
			s.Close()
		})
	}
	for i := range uint64(told) {
		f.Publish(Event{Seq: i})
		if i == told/2 {
			leave()
		}
		runtime.Gosched()
	}
	wg.Wait()
	f.Close()
	each.Wait()
	assert.Empty(t, f.rings)
}

func TestCut(t *testing.T) {
	e := Event{Detail: []hypervisor.Detail{{Key: "verb", Value: "start"}, {Key: "error", Value: strings.Repeat("x", 1<<20)}}}
	was := e.Detail
	e.Cut()
	assert.Less(t, len(e.String()), longestValue+100)
	assert.Len(t, was[1].Value, 1<<20, "a back end's own is left alone")
}
