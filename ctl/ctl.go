package ctl

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"vmfs/backends/hypervisor"
	"vmfs/machine"
	"vmfs/machine/rc"
)

// Verb is one row of a table of verbs for the ctl file of a T.
type Verb[T any] struct {
	machine.Syntax

	run func(ctx context.Context, on T, args []string) error
}

// Message is one control message that a write holds.
type Message struct {
	Text string   // as written, without blanks around it
	Args []string // its words; the first is the verb
}

// maxLines is how many lines a write can have.
const maxLines = 1024

// parse splits a write into its messages. Empty lines and comments are none.
func parse(text string) ([]Message, error) {
	if n := strings.Count(text, "\n"); n > maxLines {
		return nil, &Error{Message: text, Err: fmt.Errorf("%d lines: a write can have %d", n, maxLines), invalid: true}
	}
	var msgs []Message
	for _, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		words, err := rc.Split(line)
		if err != nil {
			return nil, &Error{Message: line, Err: err, invalid: true}
		}
		if len(words) > 0 {
			msgs = append(msgs, Message{line, words})
		}
	}
	return msgs, nil
}

// Error is a control message that failed. One that could not be understood is
// a hypervisor.ErrInvalid.
type Error struct {
	Message string
	Err     error

	invalid bool
}

// Error gives the cause alone where that names the operation itself.
func (e *Error) Error() string {
	if e.invalid {
		return fmt.Sprintf("%v: %q", e.Err, rc.Brief(e.Message, 200))
	}
	return e.Err.Error()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() []error {
	if e.invalid {
		return []error{hypervisor.ErrInvalid, e.Err}
	}
	return []error{e.Err}
}

// run carries out the messages of text with the verbs of the table.
//
// All lines are checked before the first is carried out: a write with a typing
// error does nothing at all.
func run[T any](ctx context.Context, table []Verb[T], on T, text string) (Message, error) {
	msgs, err := parse(text)
	if err != nil {
		return Message{Text: strings.TrimSpace(text)}, err
	}
	verbs := make([]Verb[T], len(msgs))
	for i, m := range msgs {
		if verbs[i], err = lookup(table, m); err != nil {
			return m, &Error{Message: m.Text, Err: err, invalid: true}
		}
	}
	for i, m := range msgs {
		if err := ctx.Err(); err != nil {
			return m, &Error{Message: m.Text, Err: fmt.Errorf("%s: not begun: %w", m.Args[0], err)}
		}
		if err := verbs[i].run(ctx, on, m.Args[1:]); err != nil {
			return m, &Error{Message: m.Text, Err: err}
		}
	}
	if len(msgs) == 0 {
		return Message{}, nil
	}
	return msgs[len(msgs)-1], nil
}

func lookup[T any](table []Verb[T], m Message) (Verb[T], error) {
	for _, v := range table {
		if v.Name != m.Args[0] {
			continue
		}
		if n := len(m.Args) - 1; n < v.Min || v.Max >= 0 && n > v.Max {
			return v, fmt.Errorf("wrong number of arguments, want %q", v.Usage())
		}
		return v, nil
	}
	return Verb[T]{}, errors.New("unknown control message")
}
