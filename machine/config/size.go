package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

const units = "KMGTPE"

// ParseSize parses a number of bytes: digits alone, or with one of K, M, G, T, P
// and E after them for powers of 1024 (KiB and the like mean the same).
func ParseSize(s string) (int64, error) {
	bad := fmt.Errorf("%q is not a size: want bytes, or a whole number with K, M, G or T (1024 based)", s)
	digits := strings.TrimRight(s, "BKMGTPEikmgtpe")
	suffix := s[len(digits):]
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 || strings.HasPrefix(digits, "+") {
		return 0, bad
	}
	if suffix == "" {
		return n, nil
	}
	i := strings.IndexByte(units, strings.ToUpper(suffix[:1])[0])
	if i < 0 || suffix[1:] != "" && suffix[1:] != "iB" {
		return 0, bad
	}
	shift := 10 * (i + 1)
	if n > math.MaxInt64>>shift {
		return 0, fmt.Errorf("%q is too large", s)
	}
	return n << shift, nil
}

// FormatSize returns n as ParseSize reads it, with the largest unit that
// divides it.
func FormatSize(n int64) string {
	if n == 0 {
		return "0"
	}
	unit := ""
	for i := 0; i < len(units) && n%1024 == 0; i++ {
		n /= 1024
		unit = units[i : i+1]
	}
	return strconv.FormatInt(n, 10) + unit
}
