package qemu

import (
	"strconv"
	"strings"
)

// An option is the value of one of QEMU's KEY=VALUE,KEY=VALUE options. Commas in
// values are doubled, which is QEMU's way to quote them; nothing else needs
// quoting, since no shell sees the command line.
type option struct{ b strings.Builder }

// opt begins an option with its first word, the one without a key: a device's
// driver, an object's type. An empty word is left out.
func opt(word string) *option {
	o := new(option)
	o.b.WriteString(quote(word))
	return o
}

func quote(value string) string { return strings.ReplaceAll(value, ",", ",,") }

func (o *option) set(key, value string) *option {
	if o.b.Len() > 0 {
		o.b.WriteByte(',')
	}
	o.b.WriteString(key)
	o.b.WriteByte('=')
	o.b.WriteString(quote(value))
	return o
}

// setIf sets the key unless the value is empty.
func (o *option) setIf(key, value string) *option {
	if value == "" {
		return o
	}
	return o.set(key, value)
}

func (o *option) num(key string, value int64) *option {
	return o.set(key, strconv.FormatInt(value, 10))
}

func (o *option) on(key string, value bool) *option {
	if value {
		return o.set(key, "on")
	}
	return o.set(key, "off")
}

func (o *option) String() string { return o.b.String() }

// A commandLine is QEMU's arguments.
type commandLine []string

func (c *commandLine) flag(name string) { *c = append(*c, "-"+name) }

// text adds an option whose whole value QEMU takes as it is.
func (c *commandLine) text(name, value string) { *c = append(*c, "-"+name, value) }

func (c *commandLine) opt(name string, o *option) { c.text(name, o.String()) }
