package agent

import "strings"

// uevent is one device event of the kernel: ACTION, DEVPATH, SUBSYSTEM, ….
type uevent map[string]string

// parseUevent reads ACTION@DEVPATH and KEY=VALUE strings, each ended by NUL. It
// returns nil for what is not from the kernel (udev's own messages have another form).
func parseUevent(b []byte) uevent {
	head, rest, _ := strings.Cut(string(b), "\x00")
	if !strings.Contains(head, "@") {
		return nil
	}
	ev := uevent{}
	for kv := range strings.SplitSeq(rest, "\x00") {
		if k, v, ok := strings.Cut(kv, "="); ok {
			ev[k] = v
		}
	}
	return ev
}
