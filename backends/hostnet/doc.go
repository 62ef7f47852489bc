// Package hostnet is the host's side of VMs' networks, for any back end: taps, taps
// on bridges, and passt. A VMM inherits an open descriptor and needs no
// right of its own; it is also all that there is of such a network, so that nothing
// has to be cleared away when the VMM has ended, however that was.
//
// It imports backends/hypervisor, backends/process, internal/wait and golang.org/x/sys.
package hostnet

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"strconv"
	"strings"
	"syscall"
	"time"

	"vmfs/internal/wait"
)

// TapName is the name of the tap that is made for the VM's i-th network: the
// beginning of the VM's name, for people, and what no other VM has.
func TapName(vm, uuid string, i int) string {
	const room = 5 // of the 15 bytes of an interface's name
	word := strings.Map(func(r rune) rune {
		if r == '_' || r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' {
			return r
		}
		return -1
	}, vm)
	sum := sha256.Sum256([]byte(uuid + "\x00" + vm + "\x00" + strconv.Itoa(i)))
	return "vm-" + word[:min(len(word), room)] + "-" + strings.ToLower(base32.HexEncoding.EncodeToString(sum[:]))[:6]
}

// busyWait is how long a device may be busy because the process that had it has
// just ended: the kernel closes some files a moment after that.
const busyWait = time.Second

// whileBusy calls f until it returns something else than EBUSY, for a moment.
func whileBusy(ctx context.Context, f func() error) (err error) {
	ctx, cancel := context.WithTimeout(ctx, busyWait)
	defer cancel()
	_ = wait.Until(ctx, busyWait/50, func() (bool, error) { // its end is that of the attempts
		err = f()
		return !errors.Is(err, syscall.EBUSY), nil
	})
	return err
}
