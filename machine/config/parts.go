package config

import (
	"cmp"
	"errors"
	"fmt"
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
		text("path", &d.Path), text("format", &d.Format), yesNo("readonly", &d.Readonly),
		rate("bps", &d.IOBps), rate("burst", &d.IOBurstBps),
	}
}

func netParts(n *hypervisor.NetworkConfig) []part {
	return []part{
		text("tap", &n.TAPDevice), text("bridge", &n.Bridge), flag("user", &n.User), flag("passt", &n.Passt),
		text("mac", &n.MAC), text("ip", &n.IP), text("netmask", &n.Netmask), list("forward", &n.Forwards),
	}
}

func topologyParts(t *hypervisor.CPUTopology) []part {
	return []part{
		count("packages", &t.Packages), count("dies", &t.DiesPerPackage), count("cores", &t.CoresPerDie), count("threads", &t.ThreadsPerCore),
	}
}

func text[S ~string](name string, s *S) part {
	return part{name: name, get: func() []string { return nonEmpty(string(*s)) }, set: func(v string) error {
		*s = S(v)
		if v == "" {
			return errors.New("it needs a value")
		}
		return nil
	}}
}

func list(name string, l *[]string) part {
	return part{name: name, repeat: true, get: func() []string { return *l }, set: func(v string) error {
		*l = append(*l, v)
		return nil
	}}
}

func flag(name string, b *bool) part {
	get := func() []string {
		if *b {
			return []string{""}
		}
		return nil
	}
	return part{name: name, get: get, set: func(v string) error {
		*b = true
		if v != "" {
			return errors.New("it takes no value")
		}
		return nil
	}}
}

func yesNo(name string, b *bool) part {
	get := func() []string {
		if *b {
			return []string{"yes"}
		}
		return nil
	}
	return part{name: name, get: get, set: func(v string) error {
		*b = v == "yes"
		if v != "yes" && v != "no" {
			return fmt.Errorf("want yes or no, not %q", v)
		}
		return nil
	}}
}

func rate(name string, n *int64) part {
	get := func() []string {
		if *n == 0 {
			return nil
		}
		return []string{FormatSize(*n)}
	}
	return part{name: name, get: get, set: func(v string) (err error) {
		*n, err = ParseSize(v)
		if err == nil && *n == 0 {
			return errors.New("a limit of 0 bytes a second would stop the disk: leave it out for no limit")
		}
		return err
	}}
}

func count(name string, n *int) part {
	return part{name: name, get: func() []string { return []string{strconv.Itoa(cmp.Or(*n, 1))} }, set: func(v string) (err error) {
		*n, err = parseCount(v)
		return err
	}}
}

// parseParts sets the parts that text has. A comma inside a value is doubled.
func parseParts(text string, parts []part) error {
	var seen []string
	for _, word := range splitCommas(text) {
		name, value, _ := strings.Cut(word, ":")
		i := slices.IndexFunc(parts, func(p part) bool { return p.name == name })
		switch {
		case name == "":
			return errors.New("empty part: want NAME:VALUE,NAME:VALUE (a comma inside a value is doubled)")
		case i < 0:
			return fmt.Errorf("unknown part %q: there are %s", name, strings.Join(names(parts), ", "))
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
