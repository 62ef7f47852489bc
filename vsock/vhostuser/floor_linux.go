package vhostuser

import "time"

// The guest's writers take turns by the guest's own scheduling. One that hears of
// new room as fast as it fills the old never has to wait, and keeps the processor
// until its time is over, which is megabytes. So a stream that has long been the
// only one to send, of several, hears of its room when another has sent, or none
// seems to want to.
const (
	// floorMost is how many bytes a stream may send before others have sent.
	floorMost = 256 << 10
	// floorWait is how long the others may take to say something.
	floorWait = time.Millisecond
	// floorTurn is the time within which those who send count as several, if they
	// send packets of floorPacket bytes.
	floorTurn   = 20 * time.Millisecond
	floorPacket = 4 << 10
)

// A floor knows which of the guest's streams sends, and how much it has sent alone.
type floor struct {
	speaker *stream
	said    int       // bytes since another stream sent
	until   time.Time // when the speaker hears of its room at the latest, zero if it does not wait

	turn       int64 // the present one, in floorTurns since 1970
	last, this int   // the streams that sent in the turn before and in this one
}

// take notes n bytes of s. If that ends the wait of another stream, which is to hear
// of its room, it returns that.
func (f *floor) take(s *stream, n int, now time.Time) (waited *stream) {
	if turn := now.UnixNano() / int64(floorTurn); turn != f.turn {
		if f.last = 0; turn == f.turn+1 {
			f.last = f.this
		}
		f.turn, f.this = turn, 0
	}
	if n >= floorPacket && s.floorTurn != f.turn {
		s.floorTurn = f.turn
		f.this++
	}
	if f.speaker != s {
		if !f.until.IsZero() {
			waited = f.speaker
		}
		f.speaker, f.said, f.until = s, 0, time.Time{}
	}
	f.said += n
	return waited
}

// holds tells whether s is to wait until it hears of its room.
func (f *floor) holds(s *stream, now time.Time) bool {
	if f.speaker != s || f.said < floorMost || max(f.last, f.this) < 2 {
		return false
	}
	if f.until.IsZero() {
		f.until = now.Add(floorWait)
	}
	return true
}

// over returns the stream that has waited for long enough, nil if none has.
func (f *floor) over(now time.Time) *stream {
	if f.until.IsZero() || now.Before(f.until) {
		return nil
	}
	f.said, f.until = 0, time.Time{}
	return f.speaker
}

// forget is for when s is no more.
func (f *floor) forget(s *stream) {
	if f.speaker == s {
		f.speaker, f.said, f.until = nil, 0, time.Time{}
	}
}

// tellRoom lets the guest know of the room of a stream that has waited, if there is
// one.
func (d *Device) tellRoom(s *stream) {
	if s != nil && s.state == open {
		s.control(wantCredit)
	}
}
