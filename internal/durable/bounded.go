package durable

import "os"

// A Bounded is a log that several processes append to, of whom another one cuts it: what
// would make it larger than Most is dropped, so that whoever makes this process say things
// cannot fill the disk with them while nobody cuts it. What is no regular file is not bounded.
type Bounded struct {
	File *os.File
	Most int64
}

// Write appends p, or drops it. It never fails for want of room.
func (b Bounded) Write(p []byte) (int, error) {
	if fi, err := b.File.Stat(); err == nil && fi.Mode().IsRegular() && fi.Size()+int64(len(p)) > b.Most {
		return len(p), nil
	}
	return b.File.Write(p)
}
