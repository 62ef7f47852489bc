package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// field is one KEY:VALUE of a value made of several.
type field struct{ key, value string }

// parseFields splits KEY:VALUE,KEY:VALUE. A comma inside a value is doubled. A
// key without a colon has the value "". A key may come twice only if it is
// among those named.
func parseFields(s string, repeat ...string) ([]field, error) {
	var fields []field
	for _, part := range splitCommas(s) {
		key, value, _ := strings.Cut(part, ":")
		if key == "" {
			return nil, errors.New("empty part: want KEY:VALUE,KEY:VALUE (a comma inside a value is doubled)")
		}
		for _, f := range fields {
			if f.key == key && !slices.Contains(repeat, key) {
				return nil, fmt.Errorf("%s: %w", key, errDuplicate)
			}
		}
		fields = append(fields, field{key, value})
	}
	return fields, nil
}

func splitCommas(s string) []string {
	var parts []string
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] != ',':
			b.WriteByte(s[i])
		case i+1 < len(s) && s[i+1] == ',':
			b.WriteByte(',')
			i++
		default:
			parts = append(parts, b.String())
			b.Reset()
		}
	}
	return append(parts, b.String())
}

func joinFields(fields []field) string {
	var parts []string
	for _, f := range fields {
		p := f.key
		if f.value != "" {
			p += ":" + strings.ReplaceAll(f.value, ",", ",,")
		}
		parts = append(parts, p)
	}
	return strings.Join(parts, ",")
}
