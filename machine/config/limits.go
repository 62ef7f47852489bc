package config

import (
	"errors"
	"fmt"
	"strings"

	"vmfs/internal/printable"
)

// The bounds of a text of settings. What it may set has those of hypervisor.VMConfig.Check.
const (
	MaxText  = 256 << 10 // bytes, of what is set at once and of the configuration that comes of it
	MaxLines = 1024      // of what is set at once
	maxLine  = 132 << 10 // a value with every byte quoted, and its key
	maxValue = 64 << 10  // the longest kernel command line
	maxParts = 128       // NAME:VALUE in one value
)

// checkText refuses a text that is too large to be looked at, before it is.
func checkText(text string) error {
	if len(text) > MaxText {
		return fmt.Errorf("%d bytes: a configuration can have %d", len(text), MaxText)
	}
	if n := strings.Count(text, "\n"); n > MaxLines {
		return fmt.Errorf("%d lines: a configuration can have %d", n, MaxLines)
	}
	return nil
}

func checkLine(line string) error {
	if len(line) > maxLine {
		return fmt.Errorf("%d bytes: a line can have %d", len(line), maxLine)
	}
	return nil
}

// checkValue refuses a value that is too long, or that could not be shown to people as it
// is: it is printed on terminals and in logs, and handed to other programs.
func checkValue(value string) error {
	if len(value) > maxValue {
		return fmt.Errorf("%d bytes: a value can have %d", len(value), maxValue)
	}
	if strings.ContainsAny(value, "\n\r\x00") {
		return errors.New("a value cannot contain a line break or a NUL byte")
	}
	if err := printable.Check(value); err != nil {
		return fmt.Errorf("a value cannot contain %w", err)
	}
	return nil
}
