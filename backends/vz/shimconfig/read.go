package shimconfig

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"
)

// ErrInvalid means that a configuration is none: it is too long, is not of its version's
// form, or says what makes no sense.
var ErrInvalid = errors.New("invalid vz-shim configuration")

// A VersionError is a configuration of a version that this release does not read.
type VersionError struct {
	Version  int // the configuration's
	Min, Max int // those that are read
}

// Error says which side is the older one.
func (e *VersionError) Error() string {
	who := "this vz-shim is older than the server that started it: update the program that vz.binary names"
	if e.Version < e.Min {
		who = "this vz-shim is newer than the server that started it: start the server anew from the same release"
	}
	return fmt.Sprintf("the configuration has version %d, and this vz-shim reads %d to %d; %s", e.Version, e.Min, e.Max, who)
}

// Unwrap makes it an ErrInvalid.
func (e *VersionError) Unwrap() error { return ErrInvalid }

// Marshal writes a configuration, which is to be valid. It sets the version.
func Marshal(c *Config) ([]byte, error) {
	is := *c
	is.Version = Version
	if err := is.Check(); err != nil {
		return nil, err
	}
	b, err := json.Marshal(&is)
	if err == nil && len(b) > MaxSize {
		err = invalid("it has %d bytes, and may have %d", len(b), MaxSize)
	}
	return b, err
}

// Read reads a configuration to its end and checks it.
func Read(r io.Reader) (*Config, error) {
	b, err := io.ReadAll(io.LimitReader(r, MaxSize+1))
	if err != nil {
		return nil, fmt.Errorf("vz-shim configuration: %w", err)
	}
	if len(b) > MaxSize {
		return nil, invalid("it has more than %d bytes", MaxSize)
	}
	// The version alone says how the rest is read.
	var is struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(b, &is); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if is.Version < MinVersion || is.Version > Version {
		return nil, &VersionError{Version: is.Version, Min: MinVersion, Max: Version}
	}
	var c Config
	if err := Strict(b, &c); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return &c, c.Check()
}

// Strict reads one JSON value and nothing after it, into a struct that has all its
// fields.
func Strict(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("there is more behind the value")
	}
	return nil
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrInvalid}, args...)...)
}

// Check returns nil for a configuration that makes sense, or an ErrInvalid. It knows
// nothing of the host.
func (c *Config) Check() error {
	for _, t := range []struct {
		what, text string
		most       int
	}{{"name", c.Name, MaxName}, {"uuid", c.UUID, MaxName}} {
		if len(t.text) > t.most || strings.ContainsAny(t.text, "\x00\n\r") {
			return invalid("the %s %.100q: want at most %d bytes in one line", t.what, t.text, t.most)
		}
	}
	switch {
	case c.CPUs < 1:
		return invalid("%d virtual CPUs: want at least 1", c.CPUs)
	case c.Memory <= 0 || c.Memory%(1<<20) != 0:
		return invalid("memory of %d bytes: want a multiple of 1 MiB", c.Memory)
	case c.Target < 0 || c.Target > c.Memory || c.Target%(1<<20) != 0:
		return invalid("a memory target of %d bytes: want a multiple of 1 MiB up to %d", c.Target, c.Memory)
	case len(c.Machine) > MaxMachine:
		return invalid("a machine identifier of %d bytes: want at most %d", len(c.Machine), MaxMachine)
	case len(c.Disks) > MaxDisks:
		return invalid("%d disks: want at most %d", len(c.Disks), MaxDisks)
	case len(c.Nets) > MaxNets:
		return invalid("%d networks: want at most %d", len(c.Nets), MaxNets)
	}
	if err := c.Boot.check(); err != nil {
		return err
	}
	for i, d := range c.Disks {
		if err := d.check(); err != nil {
			return fmt.Errorf("disk %d: %w", i, err)
		}
	}
	for i, n := range c.Nets {
		if err := n.check(); err != nil {
			return fmt.Errorf("network %d: %w", i, err)
		}
	}
	if c.Vsock != nil {
		if err := checkPath("vsock socket", c.Vsock.Socket); err != nil {
			return err
		}
	}
	if c.Console.LogMax < 0 {
		return invalid("a console log of %d bytes", c.Console.LogMax)
	}
	if c.Console.Log != "" {
		if err := checkPath("console log", c.Console.Log); err != nil {
			return err
		}
	}
	return checkPath("console socket", c.Console.Socket)
}

func (b Boot) check() error {
	switch {
	case (b.Linux == nil) == (b.EFI == nil):
		return invalid("boot: want one of linux and efi")
	case b.EFI != nil:
		return checkPath("EFI variables", b.EFI.Variables)
	}
	if err := checkPath("kernel", b.Linux.Kernel); err != nil {
		return err
	}
	if b.Linux.Initrd != "" {
		if err := checkPath("initrd", b.Linux.Initrd); err != nil {
			return err
		}
	}
	if len(b.Linux.Args) > MaxArgs || strings.ContainsAny(b.Linux.Args, "\x00\n\r") {
		return invalid("kernel arguments: want at most %d bytes in one line", MaxArgs)
	}
	return nil
}

func (d Disk) check() error {
	if !slices.Contains([]Caching{CachingAutomatic, CachingCached, CachingUncached}, d.Caching) {
		return invalid("caching %q: want automatic, cached or uncached", d.Caching)
	}
	if !slices.Contains([]Sync{SyncFull, SyncFsync, SyncNone}, d.Sync) {
		return invalid("sync %q: want full, fsync or none", d.Sync)
	}
	return checkPath("image", d.Path)
}

func (n Net) check() error {
	if hw, err := net.ParseMAC(n.MAC); err != nil || len(hw) != 6 {
		return invalid("%q is no MAC address", n.MAC)
	}
	switch n.Kind {
	case NetNAT, NetBridged, NetFile:
	default:
		return invalid("kind %q: want nat, bridged or file", n.Kind)
	}
	if (n.Kind == NetBridged) != (n.Interface != "") {
		return invalid("an interface is what a bridged network has, and it alone")
	}
	if (n.Kind == NetFile) != (n.FD != 0) || n.FD < 0 {
		return invalid("a descriptor is what a network of kind file has, and it alone")
	}
	return nil
}

func checkPath(what, path string) error {
	if !filepath.IsAbs(path) || len(path) > MaxPath || strings.IndexByte(path, 0) >= 0 {
		return invalid("%s %.100q: want an absolute path of at most %d bytes", what, path, MaxPath)
	}
	return nil
}
