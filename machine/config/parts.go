package config

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"vmfs/backends/hypervisor"
)

// A part is one NAME:VALUE of a value that is made of several, joined by commas. It
// is bound to where its value goes.
type part struct {
	name   string
	set    func(value string) error
	get    func() []string // what to print, a value for each time that the part stands there
	repeat bool
}

func diskParts(d *hypervisor.DiskConfig) []part {
	return []part{
		value("path", &d.Path, parseWord, str), value("format", &d.Format, parseWord[hypervisor.DiskFormat], str),
		value("size", &d.Size, parseDiskSize, FormatSize),
		boolean("readonly", &d.Readonly, "yes", "no"), value("bps", &d.IOBps, parseRate, FormatSize), value("burst", &d.IOBurstBps, parseRate, FormatSize),
	}
}

func netParts(n *hypervisor.NetworkConfig) []part {
	return []part{
		value("tap", &n.TAPDevice, parseWord, str), value("bridge", &n.Bridge, parseWord, str),
		boolean("user", &n.User, ""), boolean("passt", &n.Passt, ""),
		value("mac", &n.MAC, parseMAC, str), value("ip", &n.IP, parseWord, str), value("netmask", &n.Netmask, parseWord, str),
		list("forward", &n.Forwards),
	}
}

func topologyParts(t *hypervisor.CPUTopology) []part {
	return []part{
		value("packages", &t.Packages, parseCount, strconv.Itoa), value("dies", &t.DiesPerPackage, parseCount, strconv.Itoa),
		value("cores", &t.CoresPerDie, parseCount, strconv.Itoa), value("threads", &t.ThreadsPerCore, parseCount, strconv.Itoa),
	}
}

// value is a part that is left out where it is zero.
func value[T comparable](name string, at *T, parse func(string) (T, error), format func(T) string) part {
	get := func() []string {
		var zero T
		if *at == zero {
			return nil
		}
		return []string{format(*at)}
	}
	return part{name: name, get: get, set: func(v string) (err error) {
		*at, err = parse(v)
		return err
	}}
}

// boolean is a part whose value is one of words, of which the first means true.
func boolean(name string, b *bool, words ...string) part {
	get := func() []string {
		if *b {
			return words[:1]
		}
		return nil
	}
	return part{name: name, get: get, set: func(v string) error {
		*b = v == words[0]
		switch {
		case slices.Contains(words, v):
			return nil
		case words[0] == "":
			return errors.New("it takes no value")
		}
		return fmt.Errorf("want %s, not %q", strings.Join(words, " or "), v)
	}}
}

func list(name string, l *[]string) part {
	return part{name: name, repeat: true, get: func() []string { return *l }, set: func(v string) error {
		*l = append(*l, v)
		return nil
	}}
}

func parseWord[S ~string](v string) (S, error) {
	if v == "" {
		return "", errors.New("it needs a value")
	}
	return S(v), nil
}

// parseMAC makes one text of all that mean the same address.
func parseMAC(v string) (string, error) {
	if mac, err := net.ParseMAC(v); err == nil {
		return mac.String(), nil
	}
	return parseWord[string](v) // which Check refuses
}

func parseDiskSize(v string) (int64, error) {
	n, err := ParseSize(v)
	if err == nil && n == 0 {
		return 0, errors.New("a disk of no bytes: leave it out for an image that is there already")
	}
	return n, err
}

func parseRate(v string) (int64, error) {
	n, err := ParseSize(v)
	if err == nil && n == 0 {
		return 0, errors.New("a limit of 0 bytes a second would stop the disk: leave it out for no limit")
	}
	return n, err
}

// parseParts sets the parts that text has. A comma inside a value is doubled.
func parseParts(text string, parts []part) error {
	words := splitCommas(text)
	if len(words) > maxParts {
		return fmt.Errorf("%d parts: a value can have %d", len(words), maxParts)
	}
	var seen []string
	for _, word := range words {
		name, value, _ := strings.Cut(word, ":")
		i := slices.IndexFunc(parts, func(p part) bool { return p.name == name })
		switch {
		case name == "":
			return errors.New("empty part: want NAME:VALUE,NAME:VALUE (a comma inside a value is doubled)")
		case i < 0:
			return fmt.Errorf("unknown part %.100q: there are %s", name, strings.Join(names(parts), ", "))
		case slices.Contains(seen, name) && !parts[i].repeat:
			return fmt.Errorf("%s: given twice", name)
		}
		seen = append(seen, name)
		if err := parts[i].set(value); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func names(parts []part) (list []string) {
	for _, p := range parts {
		list = append(list, p.name)
	}
	return list
}

func formatParts(parts []part) string {
	var words []string
	for _, p := range parts {
		for _, v := range p.get() {
			if v != "" {
				v = ":" + strings.ReplaceAll(v, ",", ",,")
			}
			words = append(words, p.name+v)
		}
	}
	return strings.Join(words, ",")
}

// splitCommas splits at the commas that are not doubled, from left to right.
func splitCommas(s string) []string {
	var words []string
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] != ',':
			b.WriteByte(s[i])
		case i+1 < len(s) && s[i+1] == ',':
			b.WriteByte(',')
			i++
		default:
			words = append(words, b.String())
			b.Reset()
		}
	}
	return append(words, b.String())
}
