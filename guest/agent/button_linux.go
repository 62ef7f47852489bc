package agent

import (
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
)

// powerButton reads the input devices that have a power key: the ACPI power
// button on x86, GPIO keys on arm64.
type powerButton struct {
	con     *console
	pressed func()

	mu   sync.Mutex // guards open
	open map[string]bool
}

// scan starts a reader for each device with a power key that has none.
func (b *powerButton) scan() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.open == nil {
		b.open = map[string]bool{}
	}
	devs, _ := filepath.Glob("/sys/class/input/event*") // the pattern is good
	for _, dev := range devs {
		name := filepath.Base(dev)
		keys, err := readTrimmed(filepath.Join(dev, "device/capabilities/key"))
		if err != nil || b.open[name] || !hasKey(keys, keyPower) {
			continue
		}
		f, err := os.Open(filepath.Join("/dev/input", name))
		if errors.Is(err, os.ErrNotExist) {
			continue // sysfs has it before /dev has: the event that follows leads here again
		}
		if err != nil {
			b.con.printf("vmfs guest: power button: %v", err)
			continue
		}
		b.open[name] = true
		go b.read(name, f)
	}
}

// read reads key events until the device goes away.
func (b *powerButton) read(name string, f *os.File) {
	defer func() {
		f.Close()
		b.mu.Lock()
		delete(b.open, name)
		b.mu.Unlock()
	}()
	buf := make([]byte, inputEventSize)
	for {
		if _, err := io.ReadFull(f, buf); err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, os.ErrClosed) {
				b.con.printf("vmfs guest: power button: %v", err)
			}
			return
		}
		if isKeyPress(buf, binary.NativeEndian, keyPower) {
			b.pressed()
		}
	}
}
